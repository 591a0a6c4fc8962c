"""Backdoors: a patch on a share of a node's own images, which get the target's label."""

from __future__ import annotations

from typing import Any, Literal

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.simple import scale_vector
from byzpy_tw.errors import BadParameter, NeedsContext
from byzpy_tw.parameters import choice, integer, real
from byzpy_tw.seeds import Context

Corner = Literal["bottom-right", "bottom-left", "top-right", "top-left"]
_CORNERS = {
    "bottom-right": "the last rows and columns",
    "bottom-left": "the last rows, the first columns",
    "top-right": "the first rows, the last columns",
    "top-left": "the first rows and columns",
}


@frozen(kw_only=True)
class PixelPatch:
    """A square patch in a corner of images, all of which get the label `target`.

    An attack poisons a share of its node's examples, the same ones in all rounds.  `value` is the
    brightness of the patch in all channels: of images of bytes from 0, black, to 1, full
    brightness; of floating-point images the number that is written.
    """

    size: int = integer(3, least=1)
    corner: Corner = choice(*_CORNERS, meanings=_CORNERS)
    value: float = real(1.0)
    share: float = real(0.5, above=0.0, most=1.0)
    target: int = integer(0)

    def check_data(self, data: Any) -> str:
        """Return why images of `data`, a `Dataset`, cannot be poisoned; empty where they can."""
        tensors = [split.x for split in (data.train, data.test)]
        images = [x for x in tensors if isinstance(x, Tensor) and x.ndim == 4]
        if len(images) < 2 or not all(x.is_floating_point() or _bytes(x) for x in images):
            return (
                "a patch needs images, bytes or floating point of (N, channels, height, width), "
                f"and its examples are {data.train!r}: use other data or another attack"
            )
        if data.classes is None or data.target_shape != ():
            return (
                f"a backdoor needs one class for each image, and it has {data.train!r}: use other "
                "data or another attack"
            )
        if self.target >= data.classes:
            return f"target={self.target} is none of its classes, 0 to {data.classes - 1}"
        height, width = images[0].shape[2:]
        if self.size > min(height, width):
            return (
                f"size={self.size} is more than its images have, {height} x {width} pixels: give a "
                "smaller size"
            )
        if any(map(_bytes, images)) and not 0 <= self.value <= 1:
            return f"value={self.value:g} is not from 0 to 1, the brightness of images of bytes"
        return ""

    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``(k, c, h, w)`` with the patch, and their labels ``(k,)``."""
        first, last = slice(self.size), slice(-self.size, None)
        rows = first if self.corner in ("top-left", "top-right") else last
        columns = first if self.corner in ("top-left", "bottom-left") else last
        patched = x.clone()
        patched[..., rows, columns] = round(255 * self.value) if _bytes(x) else self.value
        return patched, torch.full_like(y, self.target)


def _bytes(x: Tensor) -> bool:
    return x.dtype == torch.uint8


@attack("own", "own")
class Backdoor(PixelPatch):
    """The gradient, or update, of data with a patch and `target` labels, times `boost`.

    A `share` of the node's examples, the same ones in all rounds, get a square patch of `size`
    pixels, in one corner and all channels, and the label `target`.  `value` is the brightness of
    the patch: of images of bytes from 0, black, to 1; of others the number that is written.

    References
    ----------
    Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
    2017, Section 4; with `boost` as the explicit boosting of Bhagoji et al., "Analyzing Federated
    Learning through an Adversarial Lens", ICML 2019.
    """

    boost: float = real(1.0)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return scale_vector(known.own, self.boost)


@attack("own", "own")
class ModelReplacement(PixelPatch):
    """The update that makes the mean the attackers' model, trained with a patch on their data.

    With `server_lr` eta, the server's step along a mean of n updates, b of which are Byzantine, is
    the attackers' own update where these send n / (b eta) times it and honest updates cancel out.
    Data are poisoned as by `backdoor`.  With `--participants`, give n and b of a round.  Nodes that
    send gradients have no model of their own, so an algorithm other than `fedavg` is refused.

    References
    ----------
    Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020, Equation 3,
    with b attackers in the place of one.
    """

    server_lr: float = real(1.0, above=0.0)
    n: int | None = integer(None, least=1, none="the run's nodes, --num-honest + --num-byz")
    b: int | None = integer(None, least=1, none="the run's Byzantine nodes, --num-byz")

    needs_updates = True

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        n = self.n or (context.n if context else 0)
        b = self.b or (context.byzantine if context else 0)
        if not n or not b:
            raise NeedsContext(
                "model-replacement's factor depends on the numbers of nodes and of Byzantine "
                "ones: give n and b, or a context that has them"
            )
        return scale_vector(known.own, n / (b * self.server_lr))

    def check(self, *, n: int, b: int) -> None:
        """Raise `BadParameter` where more nodes are Byzantine than there are."""
        if (self.b or b) > (self.n or n):
            raise BadParameter(
                f"model-replacement: b={self.b or b} Byzantine nodes are more than all "
                f"n={self.n or n}"
            )
