"""Malicious peers, in numbers: against a server, and against a trainer.

1. `servers`: `testing.hostile`'s conversations with a server, beside a run of its.
2. `trainers`: a run whose servers are honest but for one, which is behind a `proxy`
   that says something else than the server does; `spoiling` decides what.
3. `counting` adds up; ``python -m tests.fuzzing`` is the command.

Both work in virtual time, where what must hold of any history (`simulate.invariants`)
is asked of each of these, and, with ``--sockets``, with real processes.
"""
