"""What ``python -m byzpy_tw`` does besides runs: a module a command.

Each has `HELP`, a line; `options(parser)`, which adds what it takes; and `run(chosen)`, which
does it and returns the exit code.  `byzpy_tw.__main__` lists them; what is dear to import is
imported by `run`.
"""
