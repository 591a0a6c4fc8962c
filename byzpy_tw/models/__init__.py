"""Models by name, and the construction of a model ready to train.

A factory returns a `torch.nn.Module` from a batch of inputs to logits; its
parameters ``classes`` and ``shape`` are filled from the dataset.
"""

from byzpy_tw.models.building import build, check, count, flat_parameters, make_on_meta
from byzpy_tw.models.builtin import cnn_cifar, cnn_mnist, logreg, mlp, small_cnn
from byzpy_tw.models.dropout import StreamDropout, randomness
from byzpy_tw.models.resnet import resnet18, resnet20
from byzpy_tw.models.statistics import (
    Sums,
    layers_with_statistics,
    needs_statistics,
    normalises_by_batch,
    recording,
    statistics_of,
    write_statistics,
)
from byzpy_tw.models.torchvision_models import torchvision_model
from byzpy_tw.models.trainable import (
    constant_buffers,
    digest_of_values,
    digests_of_constants,
    frozen_values,
    trained_parameters,
)
from byzpy_tw.models.transformers import gpt_nano, vit
from byzpy_tw.models.weight_files import (
    check_value_file,
    load_values,
    read_initial_values,
    write_values,
)

__all__ = [
    "BUILTIN",
    "StreamDropout",
    "Sums",
    "build",
    "check",
    "check_value_file",
    "cnn_cifar",
    "cnn_mnist",
    "constant_buffers",
    "count",
    "digest_of_values",
    "digests_of_constants",
    "flat_parameters",
    "frozen_values",
    "gpt_nano",
    "layers_with_statistics",
    "load_values",
    "logreg",
    "make_on_meta",
    "mlp",
    "needs_statistics",
    "normalises_by_batch",
    "randomness",
    "read_initial_values",
    "recording",
    "resnet18",
    "resnet20",
    "small_cnn",
    "statistics_of",
    "torchvision_model",
    "trained_parameters",
    "vit",
    "write_statistics",
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
