"""Devices and processes: the mesh, where each array is placed, gathered table rows, several processes as one run.

`mesh` builds the mesh, `placement` moves host arrays onto it, `sharding` says how parameters are spread,
`gathered_rows` finds the table rows that a step reads and updates, `exchange` sends them between the devices,
`spread_proposal` draws negatives, `processes` and `stop_vote` let processes agree, `matmul_peak` measures the fastest
matrix product of a device.
"""
