"""Models by name, and the construction of a model ready to train.

A factory returns a `torch.nn.Module` from a batch of inputs to logits; its
parameters ``classes`` and ``shape`` are filled from the dataset.
"""

from byzpy_tw.models.building import build, check, count, flat_parameters
from byzpy_tw.models.builtin import cnn_cifar, cnn_mnist, logreg, mlp, small_cnn
from byzpy_tw.models.resnet import resnet18, resnet20
from byzpy_tw.models.torchvision_models import torchvision_model
from byzpy_tw.models.transformers import gpt_nano, vit
from byzpy_tw.models.weight_files import load_values, write_values

__all__ = [
    "BUILTIN",
    "build",
    "check",
    "cnn_cifar",
    "cnn_mnist",
    "count",
    "flat_parameters",
    "gpt_nano",
    "load_values",
    "logreg",
    "mlp",
    "resnet18",
    "resnet20",
    "small_cnn",
    "torchvision_model",
    "vit",
    "write_values",
]

# name, factory, aliases
BUILTIN = (
    ("small-cnn", small_cnn, ()),
    ("cnn-mnist", cnn_mnist, ()),
    ("logreg", logreg, ()),
    ("mlp", mlp, ()),
    ("cnn-cifar", cnn_cifar, ()),
    ("resnet18", resnet18, ()),
    ("resnet20", resnet20, ()),
    ("vit", vit, ()),
    ("gpt-nano", gpt_nano, ()),
    ("torchvision", torchvision_model, ()),
)
