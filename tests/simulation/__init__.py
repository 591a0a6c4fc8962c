"""A deterministic cluster: real trainer, real servers, virtual time, and an adversary.

Most faults of distributed training occur between processes: a connection ends in the middle
of a frame, a server comes back with an empty memory, an answer arrives a round late.  Here
all processes of a run live in one process.  Each has a reactor of its own (`process`), and
all share one heap of events (`event_loop`):

1. `schedule` draws a run, a network and faults from a seed.
2. `history` sets up the cluster (`network`, `transport`, `pipe`, `pool`) and lets an
   `adversary` loose on it: slow links, cuts with and without notice, kills, restarts, frozen
   processes, lies, strangers.  The trainer dies too: `trainer_lifecycle` resumes it from its
   run directory (`folder`), whose newest lines a loss of power may take.
3. `recorder` reads the conversation off the wire, `reference` computes the right result, and
   `invariants` compares (with `contributions`, round by round).

The trainer (`trainer`) and the servers (`cluster`) are the objects that run in production;
their reactor, thread pools and transports are virtual.  One seed is one history, event for
event.  To replay a seed, and to check many:

    python -m tests.simulation --seed N
    python -m tests.simulation --seeds A:B --processes 2
"""
