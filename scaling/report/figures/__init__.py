"""The figures of a report. Altair is imported in this package alone, and nothing imports the package at start-up."""
