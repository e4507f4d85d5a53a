"""Cells of a table: runs of equal compute, and where the loss of each cell is lowest."""
