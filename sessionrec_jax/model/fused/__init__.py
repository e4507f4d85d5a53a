"""Attention that never holds the logits of all pairs of slots of a row, and equals the reference of
`sessionrec_jax.model.attention`.

`blockwise.py` is plain JAX and runs everywhere. `hstu.py` has kernels for TPUs and NVIDIA GPUs, `splash.py` one for
TPUs and `triton.py` one for NVIDIA GPUs. `over_heads.py` gives each device of the mesh its own heads.
"""
