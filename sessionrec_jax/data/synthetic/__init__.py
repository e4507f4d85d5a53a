"""A process that draws session logs, and the exact numbers that a model can reach on them.

`process` draws the log; `truth` gives its loss floor, the excess of a counting learner and the exponents of both laws.
Neither knows of any model.
"""
