"""Mirrors of a sweep in programs that draw curves. They only read run folders; the runs do not know of them."""
