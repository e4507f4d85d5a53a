"""One file a command; its first docstring line is its help."""
