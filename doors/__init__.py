"""The doors between this program and the world: files, state on disk, text from outside, folders that must be private.

Everything here is standard library, Polars and rich. All other houses import it, and it imports none of them.
"""
