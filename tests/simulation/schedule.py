"""The plan of a history: a run, a network, and faults at their times.

All of it is drawn from the seed, and can be printed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import evolve, field, frozen

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry
from tests.simulation.cluster import PORT, host_of
from tests.simulation.pipe import LinkProfile

DATA, MODEL = "simulated", "logreg"  # a dataset of `histories`; d = 40
SAMPLED = "sampled"  # an algorithm of `histories`
LOCAL_STEPS = "fedavg:steps=2,lr=0.2,momentum=0.5"
ALGORITHMS = (SAMPLED, "dsgd", LOCAL_STEPS, "dsgd")  # of runs in turn
UNEQUAL = "dirichlet:alpha=2"  # shards of other sizes, where nodes weigh by their examples
CONFIGURATIONS = 64  # that are drawn from, so that what they should give is known early

ATTACKS = (
    "empire", "sign-flip", "alie", "ipm", "gaussian", "label-flip", "nan", "inf", "huge",
    "silent", "slow", "slow:seconds=0.5", "garbage", "replay", "none",
    "replay:relabel=true", "mimic",
)  # fmt: skip
RULES = (
    "multi-krum", "krum", "median", "trimmed-mean", "geometric-median", "cge", "mean",
    "mean-around-median", "nnm | trimmed-mean", "clipping:c=2.0 | median",
    "centered-clipping",
)  # fmt: skip


@frozen
class Fault:
    """A fault of `kind` at `server` (or the trainer: -1) at `time`; `number` says how much."""

    time: float = field(order=True)
    kind: str
    server: int = -1
    number: float = 0.0  # seconds, or the seed of what is random about it

    def __str__(self) -> str:
        where = f" server {self.server}" if self.server >= 0 else ""
        much = f" {self.number:g}" if self.number else ""
        return f"{self.time:.6f} {self.kind}{where}{much}"


@frozen
class Schedule:
    """A history before it happens.  `draw` makes one."""

    seed: int
    config: RunConfig
    servers: int
    threads: int  # of each server
    speeds: tuple[float, ...]  # factors of what jobs take: the trainer's, then servers'
    profile: LinkProfile
    faults: tuple[Fault, ...] = ()
    resumes: int = 0  # how often the trainer is resumed that ends early
    resume_delay: float = 0.0  # seconds until it is
    recoverable: bool = False  # whether failover and resuming can meet all of its faults

    @classmethod
    def draw(cls, seed: int, registry: Registry, *, faults: int | None = None) -> Schedule:
        """The history of `seed`; with so many `faults`, if that is said."""
        random = Random(f"schedule/{seed}")
        config = configuration(random.randrange(CONFIGURATIONS), registry)
        servers = random.randint(1, min(4, config.n))
        if random.random() < 0.5:  # the most that can go wrong
            servers = min(config.n, 4)
        addresses = tuple(f"tcp://{host_of(i)}:{PORT}" for i in range(servers))
        profile = LinkProfile(
            latency=random.choice((0.0001, 0.001, 0.01, 0.05)),
            jitter=random.choice((0.0, 0.5, 3.0)),
            cut=random.choice(("whole", "whole", "some", "dust")),
            capacity=random.choice((300, 4_096, 65_536, 1 << 20)),
        )
        slow = [random.choice((0.3, 1.0, 1.0, 1.0, 30.0)) for _ in range(servers + 1)]
        made = cls(
            seed,
            evolve(config, in_process=False, remote_hosts=addresses),
            servers,
            random.choice((1, 2, 8)),
            tuple(slow),
            profile,
            resumes=random.choice((0, 1, 1, 2, 5)),
            resume_delay=random.choice((0.01, 0.5, 5.0, 70.0)),
        )
        made = (_recoverable if random.random() < 0.3 else _with_failover)(made, random)
        count = random.choice((0, 1, 1, 2, 2, 3, 4, 6)) if faults is None else faults
        drawn = [fault for _ in range(count) for fault in made._fault(random)]
        return evolve(made, faults=tuple(sorted(drawn, key=lambda f: f.time)))

    @property
    def usual(self) -> float:
        """About how many seconds this run takes, undisturbed."""
        way = self.profile.latency * (1 + self.profile.jitter / 2)
        job = 0.012 * max(self.speeds)
        phases = 4 if self.config.num_byz else 2
        return 8 * (way + job) + self.config.rounds * (phases * way + 5 * job)

    def _fault(self, random: Random) -> list[Fault]:
        """One fault, and what ends it."""
        time = self.usual * random.choice((0.3, 1.0, 1.0, 2.0)) * random.random()
        server, seed = random.randrange(self.servers), float(random.randrange(1, 2**31))
        length = random.choice((0.02, 0.3, 3.0, 12.0, 60.0)) * random.uniform(0.5, 1.5)
        back = [Fault(time + length, "restart", server)] if random.random() < 0.7 else []
        if not self.recoverable:
            return random.choice(FAULTS)(time, server, length, seed, back)
        # Nothing befalls server 0 that would make its nodes late or leave no server.
        kinds = RECOVERABLE if server else RECOVERABLE_BY_ONE
        return random.choice(kinds)(time, server, length, seed, back)

    def lines(self) -> list[str]:
        """Describe the schedule, a line each."""
        config, profile = self.config, self.profile
        changed = {
            name: value
            for name, value in config.to_dict().items()
            if value != getattr(RunConfig(in_process=True), name, None)
            and name not in ("remote_hosts", "in_process")
        }
        return [
            f"seed {self.seed}: {self.servers} servers of {self.threads} threads, "
            f"speeds {self.speeds}; resumed {self.resumes} times at most, after "
            f"{self.resume_delay:g} s{'; all faults can be met' * self.recoverable}",
            f"network: latency {profile.latency:g} s, jitter {profile.jitter:g}, "
            f"segments: {profile.cut}, {profile.capacity:,} bytes of buffers",
            f"run: {changed}",
            *(f"fault: {fault}" for fault in self.faults),
        ]


_Make = Callable[[float, int, float, float, list[Fault]], list[Fault]]


def _lasting(kind: str, end: str) -> _Make:
    return lambda time, server, length, seed, back: [
        Fault(time, kind, server, length), Fault(time + length, end, server)
    ]  # fmt: skip


def _once(kind: str, *, back: bool = False) -> _Make:
    return lambda time, server, length, seed, again: [
        Fault(time, kind, server, seed), *(again if back else [])
    ]  # fmt: skip


def _of_trainer(kind: str, end: str | None = None) -> _Make:
    return lambda time, server, length, seed, back: [
        Fault(time, kind), *([Fault(time + length, end)] if end else [])
    ]  # fmt: skip


RECOVERABLE_BY_ONE: tuple[_Make, ...] = (
    _once("duplicate"),
    _once("stranger"),
    _of_trainer("freeze", "thaw"),
    _of_trainer("interrupt"),
    _of_trainer("kill"),
    _of_trainer("kill"),
    _of_trainer("power-off"),
)
RECOVERABLE: tuple[_Make, ...] = (
    *RECOVERABLE_BY_ONE,
    _lasting("no-link", "link"),
    _lasting("freeze", "thaw"),
    _lasting("freeze", "thaw"),
    *[_once("cut")] * 2,
    *[_once("kill", back=True)] * 4,
    *[_once("power-off", back=True)] * 2,
    *[_once("stop", back=True)] * 2,
)
FAULTS: tuple[_Make, ...] = (
    *RECOVERABLE,
    *[_once("cut-silently")] * 2,
    _lasting("slow-link", "usual-link"),
    *[_once("lie")] * 3,
)

# Whose undisturbed runs accept every vector.
HARMLESS = frozenset((
    "empire", "sign-flip", "alie", "ipm", "gaussian", "label-flip", "none",
    "replay:relabel=true", "mimic",
))  # fmt: skip


def _with_failover(made: Schedule, random: Random) -> Schedule:
    """Return the schedule with random options of failover."""
    config, servers = made.config, made.servers
    least = -(-config.n // servers)
    chosen = dict(
        replace_timeout=random.choice((0.0, 2.0, 20.0, 60.0)),
        heartbeat_timeout=random.choice((None, None, 0.1, 0.3, 0.45)),
        failover=random.choice(("on", "on", "on", "off")),
        min_servers=random.choice((None, None, random.randint(1, servers))),
        max_nodes_per_server=random.choice((None, None, random.randint(least, config.n))),
    )
    if chosen["heartbeat_timeout"] is not None:
        chosen["heartbeat_timeout"] *= config.round_timeout
    return evolve(made, config=evolve(config, **chosen))


def _recoverable(made: Schedule, random: Random) -> Schedule:
    """Return a schedule whose faults must not show in the result."""
    if made.config.num_byz and made.config.attack not in HARMLESS:
        return _with_failover(made, random)
    config = evolve(
        made.config,
        min_servers=1,
        round_timeout=random.choice((90.0, 400.0)),
        replace_timeout=random.choice((20.0, 60.0)),
        heartbeat_timeout=random.choice((None, 2.0, 20.0)),
    )
    speeds = tuple(min(speed, 1.0) for speed in made.speeds)
    return evolve(made, config=config, speeds=speeds, resumes=12, recoverable=True)


def configuration(number: int, registry: Registry) -> RunConfig:
    """One of the runs that histories are of, in one process; it can be computed."""
    random = Random(f"configuration/{number}")
    while True:
        honest, byzantine = random.randint(2, 6), random.choice((0, 1, 1, 2))
        *before, rule = random.choice(RULES).split(" | ")
        drawn: dict[str, Any] = dict(
            in_process=True,
            algorithm=_algorithm(number),
            num_honest=honest,
            num_byz=byzantine,
            f=random.randint(0, (honest + byzantine - 1) // 2),
            attack=random.choice(ATTACKS),
            aggregator=rule,
            pre_aggregator=tuple(before),
            rounds=random.choice((2, 3, 4, 5, 6, 9)),
            worker_momentum=random.choice((0.0, 0.0, 0.9)),
            checkpoint_interval=random.choice((None, 0, 1, 2, 3)),
            batch_size=8,
            micro_batch_size=random.choice((4, 8)),
            seed=number,
            dataset=DATA,
            model=MODEL,
            partition="iid",
            wire_dtype=random.choice(("float32", "float32", "bfloat16")),
            round_timeout=random.choice((2.0, 8.0, 30.0)),
            eval_interval=random.choice((0, 1, 3)),
        )
        if number % 8 == 4:  # with an honest node in each sample, so that each round has a step
            drawn["participants"] = random.randint(byzantine + 1, honest + byzantine - 1)
            drawn["over_sample"] = random.randint(1, honest + byzantine - drawn["participants"])
            drawn["attack"] = random.choice(("silent", "silent", "slow", "alie", "mimic"))
        config = RunConfig(**drawn)
        try:
            resolve_rules(config, registry)
        except ByzpyTwError:
            continue  # such as too few nodes for the rule
        federated = number % 16 == 4
        if not federated and number % 3 != 1:
            return config
        weighted = _weighted(config, registry)
        if weighted is not config or not federated:
            return weighted


def _algorithm(number: int) -> str:
    """Return the algorithm of a configuration: an eighth is sampled, half of these with steps."""
    if number % 8 == 4:
        return LOCAL_STEPS if number % 16 == 4 else "dsgd"
    return ALGORITHMS[number % len(ALGORITHMS)]


def _weighted(config: RunConfig, registry: Registry) -> RunConfig:
    """Return `config` with nodes that weigh by their examples, if its rules take weights."""
    weighted = evolve(config, weights="examples", partition=UNEQUAL)
    try:
        resolve_rules(weighted, registry)
    except ByzpyTwError:
        return config
    return weighted
