"""The functions of the front door: prepare a log, train or load a run, evaluate it, recommend from it.

In come names, folders, settings and user histories. Out go a prepared log, a `Run`, its metrics, recommendations and
item embeddings. `sessionrec_jax` exports these functions, and the command line is written on them.
"""
