"""A raw log becomes a prepared folder: rows are checked, sorted by user, cut into sessions, given roles, and written.

A `RawLog` from a source comes in; a folder that `data.store.open_log` reads goes out. Memory does not grow with the
length of the log. Rows that break the contract are written to rejected.parquet with a reason, never dropped silently.
"""
