"""Plans: what to run. One file for each plan; a plan turns one Config into the list of Configs of a sweep.

A Config and a prepared log come in; a Layout goes out: the runs, and the file that says which columns a fit reads.
"""
