"""The SessionRec model in Flax: item embedding, session encoder, sequence encoder, heads.

`sessionrec.init_params` and `sessionrec.apply` are pure functions of a Spec and of packed arrays. The room also counts
parameters and FLOPs (count.py) and scales initial values and learning rates with the size (parametrization.py). Flax is
imported in this room alone. No file here reads a log, so importing it loads no TFDS, Grain, Polars or Altair.
"""
