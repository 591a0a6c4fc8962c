"""Small transformers: `vit` for images, `gpt_nano` for sequences of tokens.

Attention is computed with plain products and a softmax: torch's fused kernels choose between
algorithms by device and shape, and some of them are not deterministic.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byzpy_tw.errors import BadParameter, UnsuitableModel
from byzpy_tw.models.shapes import image_shape
from byzpy_tw.parameters import check_value, real_in

# A server makes the model that a trainer names, so there are bounds.
_DROPOUT = real_in(0, below=1)
_MOST = {"width": 4096, "depth": 64, "heads": 64, "patch": 256}


class Attention(nn.Module):
    """Self-attention with several heads; `causal`: of each place to those up to itself."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / sqrt(width // self.heads)
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention, then two linear layers, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.drop1, self.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop1(self.attention(self.norm1(x)))
        return x + self.drop2(self.down(F.gelu(self.up(self.norm2(x)))))


class VisionTransformer(nn.Module):
    """Patches of an image as a sequence; the mean of their last vectors decides."""

    def __init__(
        self,
        image: tuple[int, int, int],
        patch: int,
        width: int,
        blocks: nn.Sequential,
        classes: int,
    ) -> None:
        super().__init__()
        channels, height, across = image
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        count = (height // patch) * (across // patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, count, width))
        self.blocks, self.norm = blocks, nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit(
    *,
    patch: int = 4,
    width: int = 128,
    depth: int = 6,
    heads: int = 4,
    dropout: float = 0.0,
    classes: int = 10,
    shape: tuple[int, ...] = (3, 32, 32),
) -> nn.Module:
    """A small vision transformer, 810,890 parameters on CIFAR-10.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, without a token for the class:
    the mean of all places is classified.  Patches are of `patch` x `patch` pixels.
    """
    _check_sizes(patch=patch, width=width, depth=depth, heads=heads)
    _check_heads(width, heads)
    check_value(_DROPOUT, "dropout", dropout, BadParameter)
    image = image_shape(shape, least=patch)
    if image[1] % patch or image[2] % patch:
        raise UnsuitableModel(
            f"images of {image[1]} x {image[2]} pixels are no whole number of patches of {patch} x "
            f"{patch}: choose another patch"
        )
    blocks = nn.Sequential(
        *(Block(width, heads, 2 * width, dropout, causal=False) for _ in range(depth))
    )
    return VisionTransformer(image, patch, width, blocks, classes)


class CausalTransformer(nn.Module):
    """Logits of the next token at each place of a sequence; the head is the embedding."""

    def __init__(self, vocabulary: int, length: int, width: int, blocks: nn.Sequential) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks, self.norm = blocks, nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        return self.head(self.norm(self.blocks(x)))


def gpt_nano(
    *,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    classes: int = 256,
    shape: tuple[int, ...] = (64,),
) -> nn.Module:
    """A causal transformer, 834,304 parameters for 256 tokens and sequences of 64.

    From ``(k, T)`` int64 tokens to ``(k, T, classes)`` logits of the token that follows each; there
    are `classes` tokens.  Radford et al., "Language Models are Unsupervised Multitask Learners",
    2019, with its initial values.
    """
    _check_sizes(width=width, depth=depth, heads=heads)
    _check_heads(width, heads)
    check_value(_DROPOUT, "dropout", dropout, BadParameter)
    if len(shape) != 1:
        raise UnsuitableModel(
            f"the model needs sequences of tokens, (T,), the data has examples of shape "
            f"{tuple(shape)}"
        )
    made = [Block(width, heads, 4 * width, dropout, causal=True) for _ in range(depth)]
    model = CausalTransformer(classes, shape[0], width, nn.Sequential(*made))
    last = {layer for block in made for layer in (block.attention.out, block.down)}
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02 / (sqrt(2 * depth) if module in last else 1.0))
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


gpt_nano.task = "next-token"  # type: ignore[attr-defined]


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or value != int(value) or not 1 <= value <= _MOST[name]:
            raise BadParameter(
                f"{name} must be a whole number from 1 to {_MOST[name]}, got {value!r}"
            )


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise BadParameter(f"width {width} is no multiple of heads {heads}")
