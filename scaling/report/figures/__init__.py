"""The figures of a report, one Altair chart each.

In: a Subject (runs, fit, columns for hovering), IsoFLOP minima, the compute-optimal path. Out: {file stem: chart}.
Only this package imports Altair, and nothing imports this package at start-up.
"""
