"""Values of a model's tensors in files of safetensors, by the names of its ``state_dict``.

Such files hold numbers and names, never code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byzpy_tw import files
from byzpy_tw.errors import ByzpyTwError, CannotRecord, UnsuitableModel
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.text import clean, clip
from byzpy_tw.user_files import FileFault, open_safetensors

SUFFIX = ".safetensors"
_NAMED = 3  # tensors in a message


def load_values(
    model: nn.Module, root: Path | None, name: str, *, replaced: Collection[str] = ()
) -> nn.Module:
    """Fill `model` with the values in ``root/NAME.safetensors``, and return it.

    For a model's factory that takes ``root``, the data root of its process, so that all machines
    begin with the same frozen values.  The file has names of ``model.state_dict()`` alone, and all
    parameters and buffers; of a model with frozen ones it may lack those that are trained, and
    of tied ones it needs one name.  Tensors named in `replaced`, such as a trained head, are left
    as they are where their shape in the file differs.  Raises `UnsuitableModel`.  On the meta
    device only names, shapes and dtypes are compared.
    """
    if root is None:
        raise UnsuitableModel(f"init={clip(name)} needs a data root, and this process has none")
    if Path(name).name != name or name[:1] in ("", ".") or not name.isprintable():
        raise UnsuitableModel(
            f"init={clip(name)!r} is a name, such as backbone for DATA_ROOT/backbone{SUFFIX}, "
            "and no path"
        )
    path = root / f"{name}{SUFFIX}"
    state = model.state_dict()
    with _open(path, UnsuitableModel) as file:
        there = set(file.keys())
        other = {
            key
            for key in there & state.keys() & set(replaced)
            if _described(file, key)[0] != tuple(state[key].shape)
        }
        known, needed = model.state_dict(keep_vars=True), _needed(model)
        _compare(path, file, needed, known, UnsuitableModel, ignored=other)
        for key in there - other:
            if not state[key].is_meta:
                state[key].copy_(file.get_tensor(key))
    return model


def _needed(model: nn.Module) -> dict[str, Tensor]:
    """Return what a file of `load_values` must have: all, or what no step will change."""
    known = model.state_dict(keep_vars=True)
    frozen = any(not leaf.requires_grad for leaf in model.parameters())
    counts = {f"{name}.num_batches_tracked" for name, _ in model.named_modules()}
    return {
        name: tensor
        for name, tensor in known.items()
        if name not in counts and not (frozen and tensor.requires_grad)
    }


def check_value_file(path: Path, error: type[ByzpyTwError]) -> None:
    """Raise `error` where `path` is no file of values."""
    with _open(path, error):
        pass


def read_initial_values(
    model: nn.Module, path: Path, error: type[ByzpyTwError]
) -> dict[str, Tensor]:
    """Return the values of the trained parameters of `model` in the file `path`, by name.

    It may hold the frozen parameters, too, if with the values that `model` has, and buffers, which
    are ignored; of tied parameters it needs one name.  Raises `error`.
    """
    trained = dict(trained_parameters(model))
    known = model.state_dict(keep_vars=True) | trained
    with _open(path, error) as file:
        _compare(path, file, trained, known, error)
        names = {id(leaf): name for name, leaf in trained.items()}
        there = {id(known[name]): name for name in sorted(file.keys(), reverse=True)}
        found = {name: file.get_tensor(there[id(leaf)]) for name, leaf in trained.items()}
        for name in sorted(set(file.keys()) - trained.keys()):
            value, first = file.get_tensor(name), names.get(id(known[name]))
            if first is not None and not torch.equal(value, found[first]):
                raise error(f"{path}: {first!r} and {name!r} are one parameter, and differ there")
            frozen = first is None and isinstance(known[name], nn.Parameter)
            if frozen and not torch.equal(value, known[name].detach().cpu()):
                raise error(
                    f"{path}: {name!r} is frozen in the model, and has other values in the file: "
                    "frozen ones come on each machine from the model's factory (init=NAME)"
                )
    for name, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise error(f"{path}: {name!r} holds NaN or infinity")
    return found


def write_values(path: Path, values: Mapping[str, Tensor]) -> None:
    """Replace the file `path` by one with `values`.  Raises `CannotRecord`."""
    from safetensors.torch import save

    plain = {}
    for name, tensor in values.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            kind = tensor.layout if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CannotRecord(f"cannot write {path}: {name!r} is no plain tensor, but {kind}")
        plain[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    try:
        data = memoryview(save(plain, {"format": "pt"}))
        with files.replacing(path) as file:
            while data:
                data = data[file.write(data) :]
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        why = getattr(e, "strerror", None) or clean(clip(" ".join(str(e).split()), 200), 200)
        raise CannotRecord(f"cannot write {path}: {why}") from e


@contextmanager
def _open(path: Path, error: type[ByzpyTwError]) -> Iterator[Any]:
    """Open the file `path` for reading; raise `error` for one that is not there, or damaged."""
    try:
        with open_safetensors(path, "pt") as file:
            yield file
    except FileFault as fault:
        raise error(f"{path} {fault}") from None  # it has nothing to add


def _compare(
    path: Path,
    file: Any,
    wanted: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    error: type[ByzpyTwError],
    *,
    ignored: Collection[str] = (),
) -> None:
    """Raise `error` unless `file` has `wanted`, and nothing but `allowed`, by shape and dtype."""
    names = set(file.keys()) - set(ignored)
    held = {id(allowed[name]) for name in names & allowed.keys()}  # a tied one by either name
    faults = []
    if missing := sorted(name for name in wanted if id(wanted[name]) not in held):
        faults.append(f"lacks {_quote(missing)}")
    if unknown := sorted(names - allowed.keys()):
        faults.append(f"has {_quote(unknown)}, which the model has not")
    for name in sorted(names & allowed.keys()):
        there = _described(file, name)
        here = tuple(allowed[name].shape), str(allowed[name].dtype).removeprefix("torch.")
        if there != here:
            spare = "" if name in wanted else " (or leave it out of the file)"
            faults.append(
                f"has {clip(name)!r} as {there[1]} {there[0]}, the model as {here[1]} {here[0]}"
                f"{spare}"
            )
    if faults:
        more = f", and {len(faults) - _NAMED} more faults" if len(faults) > _NAMED else ""
        raise error(f"{path} is of another model: it {'; it '.join(faults[:_NAMED])}{more}")


def _described(file: Any, name: str) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a tensor of `file`, without reading it."""
    piece = file.get_slice(name)
    kind = piece.get_dtype()
    return tuple(piece.get_shape()), _DTYPES.get(kind, kind)


# Names of dtypes in a file of safetensors.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


def _quote(names: list[str]) -> str:
    shown = ", ".join(repr(clip(name)) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
