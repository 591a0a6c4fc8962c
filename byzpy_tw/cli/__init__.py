"""The commands, a module each: ``python -m byzpy_tw COMMAND`` and ``python -m byzpy_tw.train``.

Each command of the former has a line `HELP`, `options(parser)` and `run(chosen)`, which makes the
slow imports and returns the exit code.  `byzpy_tw.__main__` lists them.
"""
