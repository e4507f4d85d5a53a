"""Ways to run what is missing in a sweep folder."""
