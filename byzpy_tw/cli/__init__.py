"""The commands, a module each: ``python -m byzpy_tw COMMAND`` and ``python -m byzpy_tw.train``.

Each command of the former has `HELP`, a line; `options(parser)`, which adds its options; and
`run(chosen)`, which runs it and returns the exit code.  `byzpy_tw.__main__` lists them.  Slow
imports are made by `run`.
"""
