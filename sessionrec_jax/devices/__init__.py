"""Devices and processes: the mesh, where each array is placed, gathered table rows, several processes as one run.

`mesh` builds the mesh and moves host arrays onto it, `gathered_rows` reads and writes the table rows that a step needs,
`processes` lets processes agree, `matmul_peak` measures the fastest matrix product of a device.
"""
