"""The sequence encoders (SSE), one file each. A file's name is the encoder's name; its first line is its line in
--help.

`ENCODER` in each file states everything that is true of the encoder, and `sessionrec_jax.registry` finds it.
"""
