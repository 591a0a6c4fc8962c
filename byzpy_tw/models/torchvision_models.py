"""Classification architectures of torchvision by name.  Weights are never downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from byzpy_tw.errors import BadParameter, UnsuitableModel
from byzpy_tw.models.shapes import suggest_layout
from byzpy_tw.models.weight_files import load_values
from byzpy_tw.plugin_code import describe_exception

# Their second outputs, for training alone, are left out.
_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in
              ("googlenet", "inception_v3")}  # fmt: skip
Trained = Annotated[
    Literal["all", "head"],
    {
        "all": "every parameter",
        "head": "the last linear layer, which a file may have for other classes; the others, and "
        "statistics, are constants",
    },
]
_SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 299)  # of images, which an error tries in order


def torchvision_model(
    *,
    arch: str,
    init: str = "none",
    trained: Trained = "all",
    classes: int = 10,
    shape: tuple[int, ...] = (3, 224, 224),
    root: Path | None = None,
) -> nn.Module:
    """A classification architecture of torchvision, such as ``arch=resnet50``.

    Its initial values are drawn from the run's seed, or come on each machine from
    ``DATA_ROOT/INIT.safetensors``.  ``trained=head`` freezes all but the last linear layer; one of
    another shape in the file, as of other classes, is not read.
    """
    arch = _known(arch)
    if len(shape) != 3 or shape[0] != 3:
        raise UnsuitableModel(
            f"torchvision's {arch} needs images of 3 channels, the data has examples of shape "
            f"{tuple(shape)}{suggest_layout(shape)}"
        )
    try:
        model = _make(arch, classes, shape)
    except (AssertionError, RuntimeError, ValueError) as e:
        _check_size(arch, classes, shape)
        raise UnsuitableModel(f"torchvision's {arch}: {describe_exception(e)}") from e
    _check_size(arch, classes, shape)
    head = _freeze_body(arch, model) if trained == "head" else ()
    return model if init == "none" else load_values(model, root, init, replaced=head)


def _known(arch: str) -> str:
    """Return the name of an architecture as torchvision spells it; `BadParameter` for none."""
    from torchvision import models  # seconds to import

    names = models.list_models(module=models)
    found = arch.lower().replace("-", "_")
    if found not in names:
        near = get_close_matches(found, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(names)})"
        raise BadParameter(f"torchvision has no architecture for classification {arch!r}{hint}")
    return found


def _make(arch: str, classes: int, shape: tuple[int, ...]) -> nn.Module:
    from torchvision import models

    family, _, _ = arch.partition("_")
    sized: dict[str, dict[str, Any]] = {
        "vit": {"image_size": shape[1]}, "maxvit": {"input_size": tuple(shape[1:])},
    }  # fmt: skip
    more: dict[str, Any] = dict(_AUXILIARY.get(arch, {})) or sized.get(family, {})
    with _NumbersOnCpu() if family == "regnet" else nullcontext():
        model: nn.Module = models.get_model(arch, weights=None, num_classes=classes, **more)
    return model


class _NumbersOnCpu(TorchFunctionMode):
    """Keeps numbers that RegNets compute their sizes from off the meta device, and reads them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            given.setdefault("device", "cpu")
        return func(*args, **given)


def _check_size(arch: str, classes: int, shape: tuple[int, ...]) -> None:
    """Raise `UnsuitableModel`, with a size that would do, where the images are too small."""
    if why := _failure(arch, classes, shape):
        larger = (size for size in _SIZES if size > min(shape[1:]))
        works = next((s for s in larger if not _failure(arch, classes, (3, s, s))), None)
        hint = "" if works is None else f"; images of {works} x {works} would do"
        raise UnsuitableModel(
            f"torchvision's {arch} cannot be computed with images of {shape[1]} x {shape[2]}"
            f"{hint} ({why})"
        )


@lru_cache(maxsize=64)
def _failure(arch: str, classes: int, shape: tuple[int, ...]) -> str:
    """Return the error of a call with images of `shape`, found without memory; or nothing."""
    try:
        with torch.device("meta"), torch.no_grad():
            model = _make(arch, classes, shape).eval()
            model(torch.empty(2, *shape))
    except Exception as e:  # of any layer
        return describe_exception(e)
    return ""


def _freeze_body(arch: str, model: nn.Module) -> tuple[str, ...]:
    """Leave the last linear layer alone to be trained, and return the names of its parameters.

    Statistics are constants then.
    """
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise BadParameter(f"trained=head: torchvision's {arch} does not end in a linear layer")
    model.requires_grad_(False)
    linear[-1].requires_grad_(True)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    return tuple(name for name, leaf in model.named_parameters() if leaf.requires_grad)
