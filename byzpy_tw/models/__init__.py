"""Models by name, and the construction of a model ready to train.

A factory returns a `torch.nn.Module` from a batch of inputs to logits; its
parameters ``classes`` and ``shape`` are filled from the dataset.
"""

from byzpy_tw.models.building import build, check, count, flat_parameters
from byzpy_tw.models.builtin import cnn_cifar, cnn_mnist, logreg, mlp, resnet18, small_cnn
from byzpy_tw.models.dropout import StreamDropout, randomness

__all__ = [
    "BUILTIN",
    "StreamDropout",
    "build",
    "check",
    "cnn_cifar",
    "cnn_mnist",
    "count",
    "flat_parameters",
    "logreg",
    "mlp",
    "randomness",
    "resnet18",
    "small_cnn",
]

# name, factory, aliases
BUILTIN = (
    ("small-cnn", small_cnn, ()),
    ("cnn-mnist", cnn_mnist, ()),
    ("logreg", logreg, ()),
    ("mlp", mlp, ()),
    ("cnn-cifar", cnn_cifar, ()),
    ("resnet18", resnet18, ()),
)
