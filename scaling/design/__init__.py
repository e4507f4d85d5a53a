"""Which runs to make: whether planned runs can identify a law, what cures a refused table, what to run next."""
