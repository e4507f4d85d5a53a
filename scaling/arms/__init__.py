"""The laws of several arms of one table, fitted together: other exponents or other constants, and which arm is better.

    tables = {arm: scaling.read(rows, columns) for arm, rows in tables_of(frame, "paradigm", "runs.csv").items()}
    found = compare(tables, "paradigm", "power_floor")
    print(*sentences(found, versus(found)))

An arm is the rows with one value of a column: a paradigm, an encoder, an optimizer.
"""
