"""The commands, one file each: `main(argv)` reads the flags, calls the front door or a sweep, and prints the result.

The first line of a command's docstring is its line in `sessionrec --help`. Wrong input raises InputError, which
`experiments.exit_code` turns into one message and exit code 2.
"""
