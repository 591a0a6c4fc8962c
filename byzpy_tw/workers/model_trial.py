"""The trial of a model before round 0: two of its gradients and evaluations, thrown away.

Models are foreign code.  What would fail, differ from call to call, or differ between
processes in the middle of a run is found here, on an instance of the model's own, and told in
one line with the cure:

1. The scores of two real examples, with the parameters where the factory put them, and again
   with the parameters in the flat memory that a run uses: a view that the model took of a
   parameter would go stale there.
2. The gradient of these examples, another one of other examples, and the first one again, which
   must have the same bits.  Global generators, buffers and parameters must be left alone.
3. The same for an evaluation of two test examples.
4. A model that keeps things on itself is computed with copies from then on, one a call.

`TrialDigests` is what the trainer compares with each server: it holds digests of all that decides
bits and is not in the configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from attrs import define, field, frozen
from attrs.validators import deep_iterable, instance_of, matches_re, max_len
from torch import Tensor, nn

from byzpy_tw import global_random, models, object_state, seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import ByzpyTwError, UnsuitableModel, WireError
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.vectors import norm_of, sha256_of
from byzpy_tw.workers.loss import class_scores, losses_gradient
from byzpy_tw.workers.spec import RunSpec

EXAMPLES = 2
SECONDS = 0.4  # for the gradient of a larger batch of a plugin's model, about
_SCALE = 16.0  # a power of two, which leaves no trace
TOLERANCE = 1e-3  # relative, between processes whose bits are not expected to be equal
UNSEEDED = (
    "its first parameters differ between two models of one seed: it draws them from a generator "
    "that nobody seeds; draw from torch's default generator, which is seeded for it"
)
_STRETCHES = 16  # of a gradient, whose norms are compared
_HEX = matches_re(r"[0-9a-f]{64}")

Make = Callable[[], nn.Module]


@frozen(kw_only=True)
class TrialDigests:
    """Digests of what decides a run's bits in one process.

    ``shards``: each node's examples; ``classes``: number of classes and shape of an example;
    ``normalisation``: the numbers that inputs are made with; ``gradient``: of two examples,
    with its ``loss`` and the ``norms`` of its stretches, for processes that round otherwise.
    """

    shards: str = field(validator=[instance_of(str), _HEX])
    classes: str = field(validator=[instance_of(str), _HEX])
    normalisation: str = field(validator=[instance_of(str), _HEX])
    gradient: str = field(validator=[instance_of(str), _HEX])
    loss: float = field(validator=instance_of(float))
    norms: tuple[float, ...] = field(
        validator=[max_len(_STRETCHES), deep_iterable(instance_of(float), instance_of(tuple))]
    )

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrialDigests:
        """The trial that a peer told; `WireError` where it is none."""
        try:
            found = json.loads(text)
            norms = tuple(math.nan if norm is None else norm for norm in found["norms"])
            loss = math.nan if found["loss"] is None else found["loss"]  # as records have it
            return cls(**{**found, "norms": norms, "loss": loss})
        except (TypeError, ValueError, KeyError, RecursionError) as e:
            why = str(e.args[0] if e.args else e)
            raise WireError(f"no trial in the answer to OpenRun: {why}"[:300]) from e

    def differences(self, other: TrialDigests, *, exact: bool, local: bool) -> list[str]:
        """Name what differs between this trial and a server's, in users' words.

        `exact` demands equal bits of the gradient; otherwise it may differ by `TOLERANCE`.
        With `local` data only what does not depend on the data is compared.
        """
        found = []
        if self.classes != other.classes:
            found.append("the number of classes or the shape of an example")
        if local:
            return found
        if self.normalisation != other.normalisation:
            found.append("the normalisation of inputs")
        if self.shards != other.shards:
            found.append("the partition's shards")
        alike = self.gradient == other.gradient if exact else self._near(other)
        if not alike and not found:
            found.append("a gradient of the model on the same examples")
        return found

    def _near(self, other: TrialDigests) -> bool:
        if len(self.norms) != len(other.norms):
            return False
        finite = [all(map(math.isfinite, (t.loss, *t.norms))) for t in (self, other)]
        if not all(finite):
            return finite[0] == finite[1]
        size = max(1e-30, *map(abs, self.norms)) if self.norms else 1e-30
        pairs = [*zip(self.norms, other.norms)]
        close = all(abs(a - b) <= TOLERANCE * size for a, b in pairs)
        return close and abs(self.loss - other.loss) <= TOLERANCE * max(1e-30, abs(self.loss))


@frozen(eq=False)
class TrialOutcome:
    """The outcome of a trial.

    ``copied``: each call of the model needs a copy of it; ``warnings`` are for the user.
    """

    trial: TrialDigests
    copied: bool
    initial: tuple[Any, ...]  # digests of the first parameters
    seconds: float
    warnings: tuple[str, ...] = ()

    def check_initial(self, model: nn.Module, who: str) -> None:
        """`UnsuitableModel` where another model of the same seed began with other values."""
        if tuple(map(object_state.tensor_digest, model.parameters())) != self.initial:
            raise UnsuitableModel(f"{who}: {UNSEEDED}")


def try_model(
    make: Make,
    who: str,
    spec: RunSpec,
    data: Dataset,
    shards: Sequence[Any],
    device: torch.device,
    *,
    foreign: bool = True,
) -> TrialOutcome:
    """Try the model that `make` makes; raises `UnsuitableModel` or `BrokenPlugin`.

    A `foreign` one, a plugin's, is tried with more than two examples too.
    """

    def work() -> TrialOutcome:
        with plugin_call(who):
            return _tried(make, who, spec, data, shards, device, foreign)

    return run_single_threaded_with_grad(work)


def _tried(
    make: Make,
    who: str,
    spec: RunSpec,
    data: Dataset,
    shards: Sequence[Any],
    device: torch.device,
    foreign: bool,
) -> TrialOutcome:
    begun = time.perf_counter()
    with global_random.hold_generators(), torch.enable_grad():
        subject = _ModelExaminer(make, who, spec, data, device, foreign)
        keeps, first, initial = subject.examine(), subject.first, subject.initial
        del subject  # its memory, before another takes as much
        if keeps:
            _ModelExaminer(make, who, spec, data, device, foreign).examine_copies(first, keeps)
    warnings = [] if first.finite else [f"{who}: its gradient of two examples is not finite"]
    seconds = time.perf_counter() - begun
    return TrialOutcome(_trial(first, data, shards), bool(keeps), initial, seconds, tuple(warnings))


def _trial(gradient: _Gradient, data: Dataset, shards: Sequence[Any]) -> TrialDigests:
    """Digests of what decides bits here."""
    numbers = hashlib.sha256()
    for shard in shards:
        numbers.update(f"{len(shard)}:".encode() + shard.astype("<i8").tobytes())
    return TrialDigests(
        shards=numbers.hexdigest(),
        classes=_sha256(data.classes, data.shape),
        normalisation=sha256_of(torch.tensor(data.mean), torch.tensor(data.std)),
        gradient=gradient.sha256,
        loss=gradient.loss,
        norms=gradient.norms,
    )


@frozen(eq=False)
class _Gradient:
    """Digests of a gradient: its memory is not kept."""

    digests: tuple[Any, ...]  # cheap, equal for equal bits
    loss: float
    norms: tuple[float, ...]  # of its stretches
    sha256: str

    @classmethod
    def of(cls, pieces: Sequence[Tensor], loss: float, *, whole: bool) -> _Gradient:
        """Digests of the flat `pieces`; with `whole`, the SHA-256 too."""
        step = -(-len(pieces) // _STRETCHES)
        parts = [pieces[i : i + step] for i in range(0, len(pieces), step)]
        return cls(
            (loss.hex(), *map(object_state.tensor_digest, pieces)),
            loss,
            tuple(math.hypot(*map(norm_of, part)) for part in parts),
            sha256_of(*pieces) if whole else "",
        )

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.loss, *self.norms)))


@define(eq=False)
class _ModelExaminer:
    """One instance of the model, made for the trial."""

    make: Make
    who: str
    spec: RunSpec
    data: Dataset
    device: torch.device
    foreign: bool
    model: nn.Module = field(init=False)
    leaves: list[Tensor] = field(init=False)
    initial: tuple[Any, ...] = field(init=False)  # digests of the first parameters
    first: _Gradient = field(init=False)
    _larger: int = field(default=EXAMPLES, init=False)  # examples of batch 1
    _places: list[int] = field(init=False)  # where the parameters lie
    _whole: set[int] = field(factory=set, init=False)  # batches that were computed well

    def __attrs_post_init__(self) -> None:
        self.model = self.make().to(self.device)
        self.leaves = list(self.model.parameters())
        self._places = [leaf.data_ptr() for leaf in self.leaves]
        self.initial = tuple(map(object_state.tensor_digest, self.leaves))
        # Behind a head of zeros nothing else would show.
        with torch.no_grad():
            for number, leaf in enumerate(self.leaves):
                if leaf.numel() and not bool(leaf.any()):
                    noise = torch.Generator().manual_seed(number)
                    leaf.copy_(0.01 * torch.randn(leaf.shape, generator=noise))

    def again(self) -> _ModelExaminer:
        """Another instance, which was not called yet."""
        other = _ModelExaminer(self.make, self.who, self.spec, self.data, self.device, self.foreign)
        if other.initial != self.initial:
            self._refuse(UNSEEDED)
        return other

    # -- the story

    def examine(self) -> tuple[str, ...]:
        """Try the model as it is; the paths of what it keeps on itself, empty if nothing."""
        self._check_aliases()
        before, values = object_state.snapshot(self.model), self._values()
        buffers = self._buffers()
        apart = self._quietly(self.scores, lambda: self.again().scores())
        self._check_parameters(values)
        self.flatten()
        begun = time.perf_counter()
        flat = self.scores()
        if self.foreign:
            self._enlarge(time.perf_counter() - begun)
        self.first = self._quietly(
            lambda: self._gradient(self.model, 0, whole=True),
            self._of_another,
        )
        buffers |= {name: b for name, b in self._buffers().items() if name not in buffers}
        if self.foreign:  # what is kept for each size of a batch is there then
            self._quietly(lambda: self._gradient(self.model, 1), lambda: self._of_another(1))
            self._gradient(self.model, 0)
        after = object_state.snapshot(self.model)
        self._gradient(self.model, 1)
        other = object_state.snapshot(self.model)
        again = self._gradient(self.model, 0)
        last = object_state.snapshot(self.model)
        self._check_buffers(buffers)
        self._check_parameters(values)
        self._check_again(self.first, again, object_state.compare_snapshots(after, last))
        self._check_apart(apart, flat)
        keeps = [
            object_state.compare_snapshots(before, after),
            object_state.compare_snapshots(after, other),
        ]
        self._check_shared(keeps[1].shared or object_state.compare_snapshots(after, last).shared)
        found = [path for change in keeps for path in change.own]
        kept = tuple(dict.fromkeys(found)) or self._evaluate(self.model)
        if self.foreign and not kept:
            self._check_scaled(lambda: self.model)
        return kept

    def _of_another(self, number: int = 0) -> _Gradient:
        another = self.again()
        another._larger = self._larger
        return another._gradient(another.model, number)

    def _enlarge(self, seconds: float) -> None:
        """Make batch 1 as large as a run's, or as time allows; scores took `seconds`."""
        each = max(1e-6, 3 * seconds / EXAMPLES)  # a gradient takes about three times as long
        most = min(self.spec.micro_batch_size, self.spec.batch_size, len(self.data.train))
        self._larger = max(min(EXAMPLES, most), min(most, int(SECONDS / each)))

    def flatten(self) -> None:
        """Move the parameters into one memory, as a run does, and spoil where they were."""
        old = [leaf.data for leaf in self.leaves]
        models.flat_parameters(self.model)
        for memory in old:
            memory.zero_()
        self._places = [leaf.data_ptr() for leaf in self.leaves]

    def examine_copies(self, expected: _Gradient, keeps: tuple[str, ...]) -> None:
        """Try copies of the model, which keeps things at the paths `keeps`."""
        told = (
            f"its forward pass keeps {_quote_names(keeps)} on the model, which nodes share between "
        )
        told += "threads, and "
        if object_state.holds_compiled(self.model):
            self._refuse(f"{told}a compiled or scripted model cannot be copied for each call")
        self.flatten()
        try:
            copies = object_state.Copier(self.model)
        except Exception as e:
            raise UnsuitableModel(
                f"{self.who}: {told}it cannot be copied for each call ({describe_exception(e)}); "
                "return such things from functions, or take them out of what cannot be copied"
            ) from e
        before = object_state.snapshot(self.model)
        try:
            found = self._gradient(copies(), 0)
            warm = copies()
            self._gradient(warm, 1)
            after_another = self._gradient(warm, 0)
            self._evaluate(copies())
        except ByzpyTwError as e:
            self._refuse(
                f"its forward pass keeps {_quote_names(keeps)} in a place that copies of it share or "
                f"cannot find ({describe_exception(e.__cause__ or e)}): two nodes that are "
                "computed at once would see each other's; pass it on as a local variable"
            )
        if after_another.digests != found.digests:
            self._refuse(
                f"it keeps {_quote_names(keeps)} of the first batch that it is called with, and nodes "
                "are rebuilt anywhere, without it; a forward pass may depend on its inputs and "
                "parameters only"
            )
        if self.foreign:
            self._check_scaled(copies)
        leaks = object_state.compare_snapshots(before, object_state.snapshot(self.model))
        if leaks or found.digests != expected.digests:
            where = _quote_names([*leaks.own, *leaks.shared] or keeps)
            self._refuse(
                f"its forward pass keeps {where} in a place that copies of it share: two nodes "
                "that are computed at once would see each other's; pass it on as a local variable"
            )

    # -- computing

    def _batch(self, number: int) -> tuple[Tensor, Tensor, int]:
        """Inputs and labels of a few training examples, and the seed of their dropout."""
        data, stream = self.data, seeds.stream(self.spec.seed, "trial", number)
        count = len(data.train)
        size = min(self._larger if number else EXAMPLES, count)
        chosen = torch.from_numpy(stream.choice(count, size, replace=False))
        inputs = data.inputs(data.train.x.index_select(0, chosen)).to(self.device)
        labels = data.train.y.index_select(0, chosen).to(self.device)
        return inputs, labels, seeds.torch_seed(self.spec.seed, "trial", number)

    def scores(self, model: nn.Module | None = None) -> Tensor:
        """The scores of batch 0, as in training."""
        inputs, _, seed = self._batch(0)
        with plugin_call(self.who), torch.no_grad(), models.randomness(seed):
            model = self.model if model is None else model
            return class_scores(model, inputs, self.data.classes, self.who)

    def _gradient(self, model: nn.Module, number: int, *, whole: bool = False) -> _Gradient:
        """The gradient of the examples of batch `number`."""
        data, (inputs, labels, seed) = self.data, self._batch(number)
        try:
            with plugin_call(self.who):
                loss, found = losses_gradient(
                    model, self.leaves, inputs, labels, data.classes, len(labels), lambda: seed,
                    self.who,
                )  # fmt: skip
        except Exception as e:
            if self._whole and e.__cause__ is not None and self._works_first(number):
                raise UnsuitableModel(
                    f"{self.who}: it was computed well once, and failed when called again "
                    f"({describe_exception(e.__cause__)}): it keeps something between calls; a "
                    "forward pass may depend on its inputs and parameters only"
                ) from e
            raise
        names = [name for name, _ in self.model.named_parameters()]
        unused = [name for name, piece in zip(names, found) if piece is None]
        if unused:
            self._refuse(
                f"{_quote_names(unused)} get no gradient from the loss: use them in forward(), or "
                "leave them out of the model"
            )
        self._whole.add(number)
        pieces = [piece.reshape(-1).contiguous().cpu() for piece in found if piece is not None]
        return _Gradient.of(pieces, float(loss), whole=whole)

    def _works_first(self, number: int) -> bool:
        """Return whether batch `number` can be computed by a model that was not called yet."""
        try:
            self._of_another(number)
        except ByzpyTwError:
            return False
        return True

    def _quietly(self, compute: Callable[[], Any], afresh: Callable[[], object]) -> Any:
        """The result of `compute`, which must leave the global generators alone."""
        result, moved = global_random.detect_draws(compute, afresh)
        if not moved:
            return result
        self._refuse(
            f"it draws from {' and '.join(moved)} global generator, so no gradient could be "
            "computed again; for dropout use torch.nn.Dropout as a layer, which draws from the "
            "run's streams"
        )

    def _evaluate(self, model: nn.Module) -> tuple[str, ...]:
        """Try evaluation; the paths of what the model keeps on itself."""
        data = self.data
        examples = data.test.x if len(data.test) else data.train.x
        inputs = data.inputs(examples[:EXAMPLES]).to(self.device)
        model.eval()
        buffers = self._buffers()

        def scores() -> Tensor:
            with plugin_call(self.who), torch.no_grad():
                return class_scores(model, inputs.clone(), data.classes, self.who)

        before = object_state.snapshot(model)
        first = self._quietly(scores, scores)
        after = object_state.snapshot(model)
        again = scores()
        self._check_buffers(buffers)
        if not torch.equal(first.nan_to_num(), again.nan_to_num()):
            self._refuse(
                "its evaluation of the same two examples gives another result when called again: "
                "it remembers something, or draws from a generator of its own"
            )
        model.train()
        last = object_state.compare_snapshots(after, object_state.snapshot(model))
        found = [object_state.compare_snapshots(before, after), last]
        return tuple(path for change in found for path in change.own)

    # -- judging

    def _check_scaled(self, model: Callable[[], nn.Module]) -> None:
        """Refuse a model that holds large parameters back, or derived something from the first.

        With other values the model that was called before must do as one that was not.
        """
        fresh = self.again()
        with torch.no_grad():
            for leaf, other in zip(self.leaves, fresh.leaves):
                leaf.mul_(_SCALE)
                other.copy_(leaf)
        values = self._values()
        used = self.scores(model())
        self._check_parameters(values)
        unused = fresh.scores()
        with torch.no_grad():
            for leaf in self.leaves:
                leaf.div_(_SCALE)
        size = float(unused.abs().max())
        if math.isfinite(size) and not float((used - unused).abs().max()) <= TOLERANCE * size:
            self._refuse(
                "it computes with numbers that it derived from its first parameters, or kept of "
                "its first call; derive them in forward()"
            )

    def _check_again(self, first: _Gradient, again: _Gradient, kept: object_state.Changes) -> None:
        if kept.memory:
            self._refuse(
                f"its forward pass changes {_quote_names(kept.memory)} from call to call, and nodes are "
                "rebuilt anywhere, without it; a forward pass may depend on its inputs and "
                "parameters only"
            )
        if self.device.type != "cpu":
            if _nearly_equal(first, again):
                return
        elif first.digests == again.digests:
            return
        self._refuse(
            "its gradient of the same two examples differs when computed again: it draws from a "
            "generator of its own, or remembers something; for dropout use torch.nn.Dropout as a "
            "layer, and keep nothing between calls"
        )

    def _check_apart(self, apart: Tensor, flat: Tensor) -> None:
        size = float(apart.abs().max())
        if math.isfinite(size) and float((apart - flat).abs().max()) > TOLERANCE * size:
            self._refuse(
                "it computes with an old copy of its parameters: a view or an array that was "
                "taken of one when the model was made; take it in forward()"
            )

    def _check_shared(self, paths: Sequence[str]) -> None:
        if paths:
            self._refuse(
                f"its forward pass changes {_quote_names(paths)}, which all models of this process "
                "share, and other threads at the same time; pass it on as a local variable"
            )

    def _check_aliases(self) -> None:
        """Refuse views of parameters that were taken when the model was made."""
        named = list(self.model.named_parameters())
        owners: list[tuple[int, int, str]] = []
        for name, leaf in named:
            begin = leaf.data_ptr()
            end = begin + leaf.numel() * leaf.element_size()
            owners.append((begin, end, name))
        owners.sort()
        for (_, end, one), (begin, _, two) in zip(owners, owners[1:]):
            if begin < end:
                self._refuse(
                    f"parameters {one!r} and {two!r} share memory without being one parameter; "
                    "to tie them, assign the parameter itself (b.weight = a.weight)"
                )
        leaves = {id(leaf) for _, leaf in named}
        kept = {path: k.thing for path, k in object_state.snapshot(self.model).items()}
        kept |= dict(self.model.named_buffers())
        for path, thing in kept.items():
            place = _address(thing)
            if place is None or id(thing) in leaves:
                continue
            for begin, end, name in owners:
                if begin <= place < end and name == f"{path}_orig":
                    self._refuse("in the place of spectral_norm use weight_norm: it keeps nothing")
                if begin <= place < end:
                    self._refuse(
                        f"{path} is a view of parameter {name!r} that was taken when the model "
                        "was made: a run keeps parameters in memory of its own, and the view "
                        "would keep the first values; take it in forward()"
                    )

    def _values(self) -> list[Any]:
        return [object_state.tensor_digest(leaf) for leaf in self.leaves]

    def _check_parameters(self, before: list[Any]) -> None:
        named = list(self.model.named_parameters())
        now = list(zip(named, self._values(), (leaf.data_ptr() for leaf in self.leaves)))
        moved = [name for ((name, _), _, at), was in zip(now, self._places) if at != was]
        if moved or [id(leaf) for _, leaf in named] != [id(leaf) for leaf in self.leaves]:
            self._refuse(
                f"its forward pass puts others in the place of its parameters {_quote_names(moved)}: "
                "steps would not reach these; compute with a changed copy, such as "
                "self.w.renorm(2, 0, 1)"
            )
        changed = [name for ((name, _), new, _), old in zip(now, before) if new != old]
        if changed:
            self._refuse(
                f"its forward pass changes its parameters {_quote_names(changed)}: all nodes of a "
                "process share them; compute with a changed copy, such as self.w.clamp(-1, 1)"
            )

    def _buffers(self) -> dict[str, Any]:
        return {n: object_state.tensor_digest(b) for n, b in self.model.named_buffers()}

    def _check_buffers(self, before: dict[str, Any]) -> None:
        now = self._buffers()
        changed = [name for name, digest in now.items() if before.get(name) != digest]
        if changed:
            cure = "for statistics use GroupNorm or LayerNorm"
            if any("parametrizations" in name or name.endswith("_u") for name in changed):
                cure = "in the place of spectral_norm use weight_norm"
            elif all(self.model.get_buffer(name).numel() == 1 for name in changed):
                cure = "count nothing"
            self._refuse(
                f"its forward pass changes {_quote_names(changed)}, outside its parameters: no node "
                f"would own that, and micro-batches would change it; {cure}, and leave buffers as "
                "they are"
            )

    def _refuse(self, why: str) -> Any:
        raise UnsuitableModel(f"{self.who}: {why}")


def _nearly_equal(one: _Gradient, other: _Gradient) -> bool:
    """Return whether two gradients agree but for rounding; two that are not finite do."""
    if not one.finite or not other.finite:
        return one.finite == other.finite
    size = max(1e-30, *one.norms)
    near = abs(one.loss - other.loss) <= TOLERANCE * max(1.0, abs(one.loss))
    return near and all(abs(a - b) <= TOLERANCE * size for a, b in zip(one.norms, other.norms))


def _address(thing: Any) -> int | None:
    if isinstance(thing, Tensor) and thing.layout is torch.strided and thing.numel():
        return None if thing.is_meta else thing.data_ptr()
    interface = getattr(thing, "__array_interface__", None)
    return interface["data"][0] if isinstance(interface, dict) and thing.size else None


def _quote_names(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _sha256(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()
