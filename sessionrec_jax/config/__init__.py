"""The settings of a run: frozen dataclasses, the rules that a Config must keep, and a Config as a value.

In come the overrides of a user and the JSON of a run folder. Out go a checked Config, its JSON and its run_id. Nothing
here imports jax or reads a log.
"""
