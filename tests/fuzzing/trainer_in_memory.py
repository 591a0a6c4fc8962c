"""A trainer all of whose servers but one are malicious, in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

from attrs import define, evolve, field

from tests.fuzzing.proxy import MaliciousProxy
from tests.fuzzing.tally import FINISHED, FREE
from tests.simulation import many
from tests.simulation.cluster import PORT, host_of
from tests.simulation.history import History, registry
from tests.simulation.process import VirtualProcess
from tests.simulation.schedule import Schedule

ROUNDS = 12
HELD = 3 * 1.5  # seconds, at speed 1: a round's jobs of the trainer, each held up at its own
SLACK = 2.0  # seconds that aggregating takes on the slowest machine


def proxy_host(number: int) -> str:
    """Where the trainer finds the malicious server that stands before server `number`."""
    return f"10.0.2.{number + 1}"


@define(eq=False)
class MaliciousServers:
    """Stand before all servers of a history but the last."""

    counts: Counter[str] = field(factory=Counter, init=False)
    _machines: list[VirtualProcess] = field(factory=list, init=False)

    events = 5_000_000  # at most, on top: where all comes in dust, a million are nothing
    over = True  # the history need not wait for them

    def begin(self, history: History) -> None:
        loop, network = history.loop, history.cluster.network
        for number in range(history.schedule.servers - 1):
            process = VirtualProcess(loop, network, f"malicious.{number}", proxy_host(number))
            random = loop.random(process.name)
            factory = MaliciousProxy(process, host_of(number), PORT, random)
            factory.counts = self.counts
            process.listenTCP(PORT, factory)
            history.liars.add(process.name)
            self._machines.append(process)

    def leave(self) -> None:
        for process in self._machines:
            process.die(silent=False)


def draw_schedule(seed: int) -> Schedule:
    """A run that can do with its one honest server, and goes on for long."""
    random = Random(f"siege/{seed}")
    number = seed
    while True:
        made = Schedule.draw(number, registry(), faults=0)
        if made.servers > 1 and made.config.f:
            break
        number += 1_000_003
    *peers, last = made.config.remote_hosts
    fronts = tuple(f"tcp://{proxy_host(i)}:{PORT}" for i in range(len(peers)))
    n, servers = made.config.n, made.servers
    bound = random.random() < 0.2  # to its servers' good will, by its own options
    config = evolve(
        made.config,
        remote_hosts=(*fronts, last),
        rounds=ROUNDS,
        min_servers=random.choice((None, 1, servers)) if bound else 1,
        failover=random.choice(("on", "on", "off")) if bound else "on",
        replace_timeout=random.choice((2.0, 20.0, 60.0)),
        max_nodes_per_server=random.choice((None, -(-n // servers), n)) if bound else None,
    )
    if made.config.num_byz and random.random() < 0.8:
        # Rounds that take as long as the trainer waits, at most, to dial one again.
        config = evolve(
            config, attack="slow:seconds=10", round_timeout=90.0, heartbeat_timeout=30.0
        )
    return evolve(made, seed=seed, config=config, recoverable=False, resumes=random.choice((0, 3)))


def examine(seed: int) -> tuple[History, list[str], Counter[str]]:
    """The history of `seed`, what is wrong with it, and what malicious servers said."""
    malicious = MaliciousServers()
    schedule = draw_schedule(seed)
    history, wrong = many.examine(schedule, peers=malicious)
    if free(schedule):
        malicious.counts[FREE] += 1
        malicious.counts[FINISHED] += history.status == "finished"
    return history, [*wrong, *_held_up(history)], malicious.counts


def free(schedule: Schedule) -> bool:
    """Return whether that run can do without all but its honest server, and has time for it."""
    config, ways = schedule.config, 4 * schedule.profile.latency * (1 + schedule.profile.jitter)
    return (
        config.min_servers == 1
        and config.failover == "on"
        and config.max_nodes_per_server is None
        and config.heartbeat > 2 * ways
    )


def _held_up(history: History) -> Iterator[str]:
    """Rounds that took longer than any may."""
    config = history.schedule.config
    own = HELD * history.schedule.speeds[0]
    most = 2 * config.round_timeout + config.replace_timeout + SLACK + own
    for record in history.rounds:
        if record["seconds"] > most:
            yield f"round {record['round']} took {record['seconds']:g} s, more than {most:g}"
