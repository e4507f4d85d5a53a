"""The settings of a run: frozen dataclasses, the rules that a Config must keep, and a Config as a value.

The overrides of a user and the JSON of a run folder come in. A checked Config, its JSON and its run_id go out. Nothing
here reads a log, and only a check imports jax: it looks the encoders up in the registry.
"""
