"""Laws of the best learning rate and batch: rate* = c N^a D^b, from runs over rates and batches at several N and D.

    found = fit_rates("runs.csv", rate="lr", batch="rows", n="params", d="tokens", loss="loss")
    found.rate.predict(N=1e9, D=1e11)  # (value, low, high)

The runs of one N and D are a cell. Each cell has a lowest point, or only a bound where that is at an edge of what was
tried. A censored regression joins the cells.
"""
