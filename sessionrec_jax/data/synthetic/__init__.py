"""A process that draws session logs, and the best loss that any model can reach on them.

`process` draws the log. `truth` gives its loss floor, the excess of an exact counting learner and the exponents of both
laws. Both know no model.
"""
