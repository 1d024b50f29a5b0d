"""The command line: one file for each command, each with `add_parser` and `run`, which returns the exit status."""
