"""A run's configuration: every option, once.

The fields of `RunConfig` are the single definition from which command-line options, the keys
of a file of options, ``config.json``, documentation and what nodes are told (`RunSpec`) come.
Metadata of each field:

- ``help``; ``section``, one of `SECTIONS`; ``metavar``, for a value in the help;
- ``bits``: the option can change the bits of the result.  Runs whose `bits` agree end with the
  same parameters;
- ``added``: the option came after 0.1.  At its default it is left out of `bits`, which older runs
  have on record; at ``before``, if the default is something else than what runs did before, and
  at None, where it decides nothing;
- ``node_field``: nodes need the option, and it is this field of their `RunSpec`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
from attrs import frozen

from byzpy_tw.config.combinations import check_combination
from byzpy_tw.config.validators import (
    DEVICES,
    count_or_all,
    device_name,
    link_of_chain,
    option,
    round_numbers,
    rule,
    sha256_digest,
    split_addresses,
    texts,
    to_text,
)
from byzpy_tw.config.validators import flag as flag
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import integer_in, one_of, optional, real_in, to_float
from byzpy_tw.plugins.naming import parse
from byzpy_tw.workers.local_steps import FEDAVG
from byzpy_tw.workers.spec import BATCHES, PRECISIONS, WIRE_DTYPES, RunSpec

# The sections of options, with their titles.
SECTIONS = {
    "where": "where the nodes live (one of these)",
    "nodes": "nodes",
    "training": "training",
    "data": "data",
    "aggregation": "aggregation",
    "running": "running",
}
WEIGHTS = ("equal", "examples")  # values of `RunConfig.weights` that are no file
SEARCHING = ("opt-alie", "opt-ipm")  # attacks to which `RunConfig.search` applies
LOCATIONS = ("remote_hosts", "local", "in_process")
# With `FEDAVG`, by optimizer: parameters of the trainer's that its text does not give.
_FEDAVG_OPTIMIZERS: Mapping[str, Mapping[str, float]] = {
    "sgd": {"lr": 1.0, "momentum": 0.0},
    **dict.fromkeys(("fed-adagrad", "fed-adam", "fed-yogi"), {"lr": 0.01}),
}

_option = partial(option, bits=True, metavar=None, node_field=None, added=False)
_where = partial(_option, section="where", bits=False)
_nodes = partial(_option, section="nodes")
_training = partial(_option, section="training")
_data = partial(_option, section="data")
_aggregation = partial(_option, section="aggregation")
_running = partial(_option, section="running", bits=False)

_positive = real_in(above=0, most=1e30)
_not_negative = real_in(0, 1e30)


@frozen(kw_only=True)
class RunConfig:
    """Everything needed to repeat a run.  Raises `ConfigError` for nonsense."""

    remote_hosts: tuple[str, ...] = _where(
        (), "servers, as tcp://HOST:PORT,tcp://HOST:PORT,...",
        texts, metavar="ADDRESSES", convert=split_addresses,
    )  # fmt: skip
    local: int | None = _where(
        None, "start this many servers on this machine, and stop them afterwards",
        optional(integer_in(1, 256)), metavar="N",
    )  # fmt: skip
    in_process: bool = _where(False, "keep the nodes in the trainer's own process, without sockets")

    num_honest: int = _nodes(3, "honest nodes", integer_in(1, 500_000), node_field="shards")
    num_byz: int = _nodes(1, "Byzantine nodes", integer_in(0, 500_000))
    attack: str = _nodes(
        "empire", "what Byzantine nodes do: NAME[:key=value,...]", rule, metavar="NAME"
    )
    search: str | None = _nodes(
        None,
        "how opt-alie and opt-ipm try a strength on a coordinate-wise rule: sample, on a sample of "
        "more than 65,536 coordinates; exact, on all; the attack's own exact=true goes before "
        "(default: sample)",
        optional(one_of("sample", "exact")), metavar="sample|exact", added=True, before="exact",
    )  # fmt: skip

    rounds: int = _training(50, "rounds to train", integer_in(1))
    batch_size: int = _training(
        64, "examples in a node's batch", integer_in(1, 1_000_000), node_field="batch_size"
    )
    micro_batch_size: int = _training(
        32, "examples computed at a time on one thread",
        integer_in(1, 8192), node_field="micro_batch_size",
    )  # fmt: skip
    batches: str | None = _training(
        None,
        "how a node's batches are chosen: draws, each anew from all of its examples; epochs, in a "
        "fresh order every epoch, whose last partial batch is dropped, or kept with epochs:keep "
        "(default: epochs; draws with --replacement)",
        optional(one_of(*BATCHES)), metavar="draws|epochs|epochs:keep", node_field="batches",
        added=True, before="draws",
    )  # fmt: skip
    clip_norm: float | None = _training(
        None, "scale each node's gradient down to this norm where it is longer (default: no limit)",
        optional(_positive), node_field="clip_norm", convert=to_float, added=True,
    )  # fmt: skip
    lr: float = _training(0.05, "learning rate", _positive)
    momentum: float = _training(0.9, "momentum of --optimizer sgd", _not_negative)
    weight_decay: float = _training(
        0.0, "weight decay of the optimizer; sgd adds this times the parameters to the gradient",
        _not_negative,
    )  # fmt: skip
    worker_momentum: float = _training(
        0.0, "momentum of each honest node's vectors, kept by the trainer", _not_negative
    )
    algorithm: str = _training(
        "dsgd", "who takes part in a round, and what becomes of the vectors: NAME[:key=value,...]",
        rule, metavar="NAME", node_field="local_steps", added=True,
    )  # fmt: skip
    participants: int | None = _training(
        None,
        "nodes that are asked in a round, drawn anew for each by the seed; their f is the smallest "
        "that covers all rounds with --confidence, --f being that of all nodes (default: all)",
        optional(integer_in(1, 1_000_000)), metavar="M", added=True,
    )  # fmt: skip
    confidence: float = _training(
        0.99, "probability that no round of --participants has more faulty nodes than its f",
        real_in(above=0, below=1), added=True,
    )  # fmt: skip
    over_sample: int = _training(
        0,
        "further nodes that a round of --participants may ask, each in the place of one that is "
        "late or lost",
        integer_in(0, 1_000_000), metavar="K", added=True,
    )  # fmt: skip
    weights: str = _aggregation(
        "equal",
        "what each node's vector weighs: equal; examples, by the number of its examples; or a FILE "
        "with a line NODE,WEIGHT for each node",
        metavar="equal|examples|FILE", added=True,
    )  # fmt: skip
    weights_sha256: str | None = _aggregation(
        None,
        "SHA-256 that the file of --weights must have (default: what it has when the run begins)",
        optional(sha256_digest), metavar="HEX", added=True,
    )  # fmt: skip
    max_weight: float | None = _aggregation(
        None,
        "largest share of the weight of all nodes that one node may have: heavier ones are cut to "
        "one level (default: no limit)",
        optional(real_in(above=0, most=1)), metavar="SHARE", convert=to_float, added=True,
    )  # fmt: skip
    optimizer: str = _training(
        "sgd", "how the parameters step along the aggregate: NAME[:key=value,...]",
        rule, metavar="NAME", added=True,
    )  # fmt: skip
    lr_schedule: str = _training(
        "milestones", "the learning rate over the rounds: NAME[:key=value,...]",
        rule, metavar="NAME", added=True,
    )  # fmt: skip
    lr_milestones: tuple[int, ...] = _training(
        (), "rounds from which the learning rate is multiplied by --lr-decay",
        round_numbers, metavar="ROUND",
    )  # fmt: skip
    lr_decay: float = _training(0.1, "factor of the learning rate at each milestone", _positive)
    seed: int = _training(
        42, "decides every random choice of the run", integer_in(0, 2**63 - 1), node_field="seed"
    )
    model: str = _training(
        "small-cnn", "the model: NAME[:key=value,...]", rule, metavar="NAME", node_field="model"
    )
    init: str | None = _training(
        None, "a .safetensors file with the initial values of the trained parameters, by name",
        metavar="FILE", bits=False, added=True,
    )  # fmt: skip
    init_sha256: str | None = _training(
        None,
        "SHA-256 that the file of --init must have (default: what it has when the run begins)",
        optional(sha256_digest), metavar="HEX", added=True,
    )  # fmt: skip

    dataset: str = _data(
        "mnist", "the data: NAME[:key=value,...]; mnist5k needs no download",
        rule, metavar="NAME", node_field="dataset",
    )  # fmt: skip
    task: str | None = _data(
        None,
        "what is learnt: NAME[:key=value,...] (default: the task that the data names, or the "
        "model, or classification)",
        optional(rule), metavar="NAME", node_field="task", added=True,
    )  # fmt: skip
    data_root: str = _data(
        "./data", "where the trainer's (and --local servers') data files are",
        metavar="DIR", bits=False,
    )  # fmt: skip
    partition: str = _data(
        "stride", "how the data is cut into shards: NAME[:key=value,...]",
        rule, metavar="NAME", node_field="partition",
    )  # fmt: skip
    data_seed: int | None = _data(
        None,
        "decides the shards, the validation data and the root set, in the place of --seed "
        "(default: the seed)",
        optional(integer_in(0, 2**63 - 1)), metavar="N", node_field="data_seed", added=True,
    )  # fmt: skip
    validation: float = _data(
        0.0,
        "share of the training data that is kept aside before it is cut into shards, and that "
        "the model is evaluated on beside the test data; with data of each site's own, of the "
        "trainer's",
        real_in(0, below=1), convert=to_float, node_field="validation", added=True,
    )  # fmt: skip
    root_examples: int = _data(
        0,
        "training examples that the trainer keeps for itself before the rest is cut into shards: "
        "the root set, for rules that compare vectors with its own, such as fltrust and zeno",
        integer_in(0), metavar="N", node_field="root_examples", added=True,
    )  # fmt: skip
    replacement: bool = _data(
        False, "draw batches with replacement, where shards are small", node_field="replacement"
    )

    aggregator: str = _aggregation(
        "multi-krum", "the rule: NAME[:key=value,...]", link_of_chain, metavar="NAME"
    )
    pre_aggregator: tuple[str, ...] = _aggregation(
        (), "a rule applied before the aggregator; may be given several times",
        link_of_chain, metavar="NAME",
    )  # fmt: skip
    f: int = _aggregation(1, "faulty nodes to tolerate", integer_in(0, 500_000), node_field="f")
    q: int | None = _aggregation(
        None,
        "rows that multi-krum averages (default: n - f - 1)",
        optional(integer_in(1)),
        metavar="Q",
    )
    chunk_size: int = _aggregation(
        32, "rows per block of a distance computation; bounds memory, changes no bit",
        integer_in(1), bits=False,
    )  # fmt: skip

    wire_dtype: str = _running(
        "float32",
        "what vectors and parameters are rounded to on their way: float32, bfloat16 or "
        "float16; the latter two halve the bytes",
        one_of(*WIRE_DTYPES), metavar="DTYPE", bits=True, node_field="wire_dtype",
    )  # fmt: skip
    precision: str = _running(
        "float32",
        "what nodes compute their gradients in: float32; bfloat16, by torch's autocast; or tf32, "
        "on NVIDIA GPUs; parameters, vectors and the trainer's work stay float32",
        one_of(*PRECISIONS), metavar="PRECISION", bits=True, node_field="precision", added=True,
    )  # fmt: skip
    threads: int | None = _running(
        None, "compute threads of this process, and of each --local server (default: all cores)",
        optional(integer_in(1, 1024)), metavar="N",
    )  # fmt: skip
    device: str = _running(
        "cpu",
        "where the trainer aggregates, steps and evaluates, and where nodes of --in-process and "
        f"--local compute: {DEVICES}; a server elsewhere has a --device of its own",
        device_name, bits=True,
    )  # fmt: skip
    round_timeout: float = _running(
        60.0, "seconds that a round waits for its vectors",
        _positive, metavar="SECONDS", node_field="patience",
    )  # fmt: skip
    replace_timeout: float = _running(
        60.0,
        "seconds that a round with more than --f failures waits for servers to come back, "
        "before the run is paused",
        _not_negative, metavar="SECONDS",
    )  # fmt: skip
    heartbeat_timeout: float | None = _running(
        None,
        "seconds without an answer to pings until a server is lost (default: 6, or two fifths "
        "of --round-timeout where that is less)",
        optional(_positive), metavar="SECONDS", convert=to_float,
    )  # fmt: skip
    failover: str = _running(
        "on", "on: a lost server's nodes move to the others; off: they are charged to --f",
        one_of("on", "off"), metavar="on|off",
    )  # fmt: skip
    min_servers: int | None = _running(
        None,
        "servers that must answer, and be of use, at the start; the others may join later "
        "(default: all)",
        optional(integer_in(1)), metavar="K",
    )  # fmt: skip
    max_nodes_per_server: int | None = _running(
        None, "nodes that failover may give to one server (default: any number)",
        optional(integer_in(1)), metavar="N",
    )  # fmt: skip
    checkpoint_interval: int | None = _running(
        None,
        "write a checkpoint every so many rounds, 0: never (default: every 10 rounds or 30 "
        "seconds, for at most a twentieth of the time)",
        optional(integer_in(0)), metavar="N",
    )  # fmt: skip
    keep_checkpoints: str = _running(
        "2", "how many checkpoints to keep, the newest ones: a number, or all",
        count_or_all, metavar="N|all", convert=to_text,
    )  # fmt: skip
    eval_interval: int = _running(
        10, "evaluate on the test data every so many rounds; 0: only at the end",
        integer_in(0), metavar="ROUNDS",
    )  # fmt: skip
    run_dir: str | None = _running(
        None, "where the run's records go (default: runs/DATE-TIME-...)", metavar="DIR"
    )
    save_model: str | None = _running(
        None, "write the trained model to this .safetensors file at the end", metavar="FILE"
    )
    keys: str | None = _running(
        None,
        "file of keys from 'python -m byzpy_tw keygen', for servers that have some; --local "
        "servers need none",
        metavar="FILE",
    )
    strict: bool = _running(
        False,
        "refuse what is otherwise a warning: a rule without its guarantee, servers with other "
        "versions",
    )
    disable_plugin: tuple[str, ...] = _running(
        (),
        "a distribution whose plugins are not even imported, here and by --local servers, such "
        "as one that is broken; may be given several times",
        texts, metavar="NAME",
    )  # fmt: skip
    plugin: tuple[str, ...] = _running(
        (),
        "a file of Python code with hooks, FILE.py, used here and by --local servers; servers "
        "elsewhere need it too, by their own --plugin; may be given several times",
        texts, metavar="FILE.py", added=True,
    )  # fmt: skip
    quiet: bool = _running(False, "print only the result and errors")
    json: bool = _running(False, "print one JSON object a line, for programs")
    web: str | None = _running(
        None,
        "serve a page that follows the run, such as tcp:8080:interface=127.0.0.1 (or 8080 for "
        "just that), with /metrics for Prometheus; off: none",
        metavar="ENDPOINT",
    )

    def __attrs_post_init__(self) -> None:
        if self.batches is None:
            object.__setattr__(self, "batches", "draws" if self.replacement else "epochs")
        if not _leaves_search_open(self.attack):
            object.__setattr__(self, "search", None)
        elif self.search is None:
            object.__setattr__(self, "search", "sample")
        check_combination(self)

    @property
    def heartbeat(self) -> float:
        """Seconds without an answer after which a server counts as lost."""
        if self.heartbeat_timeout is not None:
            return self.heartbeat_timeout
        return min(6.0, 0.4 * self.round_timeout)

    @property
    def n(self) -> int:
        """All nodes, honest and Byzantine."""
        return self.num_honest + self.num_byz

    @property
    def pipeline(self) -> str:
        """The chain of rules as one text, parameters from options filled in."""
        return " | ".join([*self.pre_aggregator, self.aggregator])

    @property
    def rule_parameters(self) -> dict[str, Any]:
        """Values for rules that take parameters of these names."""
        return {"f": self.f, "q": self.q, "chunk_size": self.chunk_size}

    @property
    def local_steps(self) -> str | None:
        """The text of what nodes do before they send updates; None where they send gradients."""
        named = parse(self.algorithm)
        return named.pairs if named.name == FEDAVG else None

    @property
    def weights_file(self) -> str | None:
        """The file of ``--weights``; None where it names none."""
        return None if self.weights in WEIGHTS else self.weights

    def spec(self) -> RunSpec:
        """The run as its nodes are told of it."""
        marked = {f.metadata["node_field"]: getattr(self, f.name) for f in attrs.fields(RunConfig)}
        marked.pop(None)
        marked["local_steps"] = self.local_steps
        if self.data_seed == self.seed:  # so a server that knows no such option serves the run
            marked["data_seed"] = None
        return RunSpec(n=self.n, **marked)

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the options' names, ready for JSON or TOML."""
        plain = ((f.name, getattr(self, f.name)) for f in attrs.fields(RunConfig))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain}

    @property
    def result_options(self) -> dict[str, Any]:
        """Every option that can change the result's bits, as `to_dict` has it."""
        plain, left_out = self.to_dict(), added_options()
        if self.data_seed == self.seed:
            plain["data_seed"] = None
        found = {
            f.name: plain[f.name]
            for f in attrs.fields(RunConfig)
            if f.metadata["bits"]
            and not (f.name in left_out and plain[f.name] in (left_out[f.name], None))
        }
        if self.weights_file is not None and self.weights_sha256 is not None:
            del found["weights"]  # the file may lie anywhere
        # A run that is on record without the digest of its file has the path among its bits.
        by_path = self.init is not None and self.init_sha256 is None
        return {**found, "init": self.init} if by_path else found

    @property
    def optimizer_parameters(self) -> dict[str, Any]:
        """Values for optimizers that take parameters of these names: those that were given."""
        if self.local_steps is not None:
            return dict(_FEDAVG_OPTIMIZERS.get(parse(self.optimizer).name, {}))
        offered = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            return offered
        defaults = {f.name: f.default for f in attrs.fields(RunConfig)}
        return {name: value for name, value in offered.items() if value != defaults[name]}

    @property
    def bits(self) -> str:
        """Hex digest of every option that can change the result's bits."""
        return options_digest(self.result_options)


def _leaves_search_open(attack: str) -> bool:
    """Return whether `attack` searches for its strength, and its text does not say how."""
    named = parse(attack)
    return named.name in SEARCHING and "exact" not in named.parameters


def options_digest(options: Mapping[str, Any]) -> str:
    """Hex digest of `options`, which are plain values under their names."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def added_options() -> dict[str, Any]:
    """The options of `bits` that came after 0.1, with what runs do that have none on record."""
    added = (f for f in attrs.fields(RunConfig) if f.metadata["added"] and f.metadata["bits"])
    found = {f.name: f.metadata.get("before", f.default) for f in added}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that `to_dict` was called on; `ConfigError` where it is none."""
    unknown = sorted(set(values) - {f.name for f in attrs.fields(RunConfig)})
    if unknown:
        raise ConfigError(f"config.json has unknown entries: {', '.join(unknown)[:300]}")
    return RunConfig(**{**added_options(), **values})
