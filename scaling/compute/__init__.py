"""The best use of compute, according to a fitted law.

In: a FittedLaw of N and D, budgets in FLOPs, and for IsoFLOP analysis the table of runs.
Out: `frontier` (the best N and D at each budget, with bands), `advise` (what a budget buys and what a wrong N costs),
`isoflop` (the best N at each compute of a table, by three methods).
"""
