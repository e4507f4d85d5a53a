"""Mirrors of a sweep in programs that draw curves. Each reads run folders; no run knows of them."""
