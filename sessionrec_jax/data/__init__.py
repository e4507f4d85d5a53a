"""From a publisher's log to packed batches: store -> windows -> batches.

This room holds the two contracts of the data (the session log and the packed batch) and the prepared log on disk. The
subpackages make a prepared log: sources read a published layout, preparation cleans and writes it, synthetic draws a
log whose loss floor is known. A Config and files come in; batches of numpy arrays go out. Nothing here imports jax.
"""
