"""The rank losses, one file each. A file's name is the loss's name; its first line is its line in --help.

`LOSS` in each file states everything that is true of the loss, and `sessionrec_jax.registry` finds it.
"""
