"""A deterministic cluster: real trainer, real servers, virtual time, and an adversary.

Whatever goes wrong in a distributed training goes wrong between its processes: a
connection that ends in the middle of a frame, a server that is gone and comes back with
an empty memory, an answer that arrives a round late.  Here all processes of a run live in
one, each on a reactor of its own (`process`) whose clock is a heap of events (`loop`):

1. `schedule` draws a run, a network and faults from a seed.
2. `history` sets up the cluster (`network`, `transport`, `pipe`, `pool`) and lets an
   `adversary` loose on it: slow links, cuts that are seen and cuts that are not, kills,
   restarts, frozen processes, lies, strangers.  The trainer dies too: `lifecycle` resumes it
   from its run directory (`folder`), whose newest lines a loss of power may take.
3. `tap` reads off the wire what was said, `reference` computes what should have been,
   and `invariants` compares.

The trainer (`trainer`) and the servers (`cluster`) are the very objects that run in
production; only what they are given is virtual: reactor, pool of threads, transports.
One seed is one history, event for event: a seed that fails is replayed by

    python -m tests.simulation --seed N

and ``--seeds A:B --processes 2`` checks many.
"""
