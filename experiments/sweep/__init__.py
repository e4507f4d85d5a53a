"""A sweep from its planned runs to their rows: the folder, leases, workers, launchers, the row of a run.

The sweep folder is the only state. Any number of workers on any number of machines share it; a worker that dies loses
nothing but the steps since its last checkpoint.
"""
