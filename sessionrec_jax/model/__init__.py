"""The only folder that knows flax: segment ops, encoders, and the pure functions of sessionrec.py."""
