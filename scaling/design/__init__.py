"""The design of runs, before anybody pays for them.

In: runs that are planned or made, and a law that is assumed, fitted, or read from fit.json.
Out: `identify` (can these runs determine the law), `cure` (the cheapest runs that make a refused table fit),
`propose` (the runs that shrink an interval most), `next_runs` (whichever of the last two a table needs).
"""
