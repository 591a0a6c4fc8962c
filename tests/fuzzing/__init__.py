"""Fuzzing with malicious peers: against a server, and against a trainer.

1. `server_in_memory`: conversations of malicious trainers (`cases`, `mutate`, `script`) with
   a server on which a run is under way.
2. `trainer_in_memory`: a run on honest servers and one behind a `proxy`, which alters the
   server's answers as `malicious_server` says.
3. `tally` counts and judges; ``python -m tests.fuzzing`` is the command.

Both work in virtual time, and check the invariants of `tests.simulation` for each history.
With ``--sockets`` they use real processes (`real_processes`).  `one_server` is the fuzzer of
``python -m byzpy_tw conformance --server``.
"""
