"""Metrics of a model and of its baselines on held-out sessions, against the whole catalogue.

Parameters and a prepared log come in; sums by user go out, from which means and standard errors are taken. Nothing here
trains or tunes on the sessions that it measures.
"""
