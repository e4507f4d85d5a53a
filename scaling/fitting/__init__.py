"""Fits a law to a table of runs: minimisation from many starts, intervals, held-out checks, competing forms.

A RunTable and the name of a law come in; a Fit goes out, or a Refusal that says why the table cannot carry the law.
"""
