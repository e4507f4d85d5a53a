"""Predictions that are frozen before their run is made, and whether they held.

`frozen.py` makes them and keeps them in a file; `judged.py` compares them with the runs that were made since.
"""
