"""Power laws from any table of runs; never imports jax or sessionrec_jax."""
