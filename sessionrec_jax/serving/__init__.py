"""Trained runs in use: load one from its folder, read user histories, recommend the top K items."""
