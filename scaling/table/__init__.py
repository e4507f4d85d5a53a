"""Any table of runs, read and checked: columns with names that the caller chooses, and a reason for each excluded row.

A csv, parquet or JSON lines file, a sweep folder or a data frame comes in; a RunTable of positive finite N, D and loss
goes out.
"""
