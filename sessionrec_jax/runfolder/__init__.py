"""The files of a run folder that are not checkpoints, the progress bar, and the signals that stop a run.

A run folder holds config.json, metrics.jsonl, row.json and checkpoints/. Small JSON files are written by rename, so
that a reader never sees half of one.
"""
