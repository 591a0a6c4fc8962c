"""Causal language models of Hugging Face with LoRA adapters: byzpy_tw trains the adapters alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from byzpy_tw import Registration, hookimpl
from byzpy_tw.models import load_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What has adapters, and by which name the architecture's layers call it.
TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
# A server makes what a trainer names, so costs are bounded.
LARGEST = {"layers": 200, "width": 16384, "heads": 256, "rank": 1024, "context": 2**20}


class CausalLM(nn.Module):
    """A causal model of transformers that maps ``(k, T)`` tokens to ``(k, T, C)`` logits."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, tokens: Tensor) -> Tensor:
        # Without the cache for generating text, which would be kept between calls.
        return self.base(input_ids=tokens, use_cache=False).logits


def lora(
    *,
    classes: int,
    shape: tuple[int, ...],
    root: Path | None,
    family: Literal["gpt2", "llama"] = "gpt2",
    layers: int = 2,
    width: int = 64,
    heads: int = 2,
    context: int | None = None,
    init: str | None = None,
    rank: int = 4,
    alpha: float = 8.0,
    dropout: float = 0.0,
) -> nn.Module:
    """A causal language model whose LoRA adapters alone are trained (Hu et al., ICLR 2022).

    The frozen base has `layers` of `width` and `heads`, and places for `context` tokens, or for as
    many as the data's sequences have.  Its values are those of ``DATA_ROOT/INIT.safetensors``, or
    random ones, a function of the run's seed.  Adapters of `rank`, scaled by `alpha` over it and
    with `dropout` before them, are in the attention of each layer.
    """
    if len(shape) != 1:
        raise ValueError(f"examples are of shape {shape}, expected (T,): sequences of tokens")
    context = shape[0] if context is None else context
    _check_sizes(layers=layers, width=width, heads=heads, rank=rank, context=context)
    if width % (2 * heads):
        raise ValueError(f"width must be a multiple of twice the heads, got {width} and {heads}")
    if context < shape[0]:
        raise ValueError(f"context={context} is less than the {shape[0]} tokens of an example")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
    base = _base(family, classes, context, layers, width, heads)
    if init is not None:
        load_values(base, root, init)
    return CausalLM(_adapted(base, family, rank, alpha, dropout))


def _check_sizes(**sizes: int) -> None:
    """Raise `ValueError` for a size that is out of its range."""
    for name, value in sizes.items():
        if not 1 <= value <= LARGEST[name]:
            raise ValueError(f"{name} must be from 1 to {LARGEST[name]}, got {value}")


def _base(
    family: str, tokens: int, context: int, layers: int, width: int, heads: int
) -> PreTrainedModel:
    """Return the model without adapters; it draws no random numbers after it is made."""
    # Seconds to import, so only where such a model is made.
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    common: dict[str, Any] = {
        "vocab_size": tokens, "bos_token_id": None, "eos_token_id": None,
        # Plain matrix products: torch chooses fused kernels by shape and device.
        "attn_implementation": "eager",
    }  # fmt: skip
    if family == "llama":
        config: Any = LlamaConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=heads, max_position_embeddings=context, **common,
        )  # fmt: skip
    else:
        # Dropout of its own would draw within attention, from torch's global generator.
        config = GPT2Config(
            n_embd=width, n_layer=layers, n_head=heads, n_positions=context,
            embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, **common,
        )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def _adapted(
    base: PreTrainedModel, family: str, rank: int, alpha: float, dropout: float
) -> nn.Module:
    """Return `base`, frozen, with adapters in it."""
    from peft import LoraConfig, inject_adapter_in_model

    adapters = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS[family],
        fan_in_fan_out=family == "gpt2",  # its layers have the weights the other way round
    )  # fmt: skip
    return inject_adapter_in_model(adapters, base)


lora.task = "next-token"  # type: ignore[attr-defined]


@hookimpl
def register_models() -> list[Registration]:
    return [Registration("lora", lora)]
