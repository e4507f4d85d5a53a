"""Command line, plans and sweeps: the only room that knows both sessionrec_jax and scaling."""
