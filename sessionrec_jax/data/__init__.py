"""From a publisher's log to packed batches.

This room holds the two contracts of the data (the session log and the packed batch), the prepared log on disk, and the
way from there to a batch: store -> windows -> batches. The subpackages make a prepared log: sources read a published
layout, preparation cleans and writes it, synthetic draws one whose loss floor is known. Nothing here imports jax.
"""
