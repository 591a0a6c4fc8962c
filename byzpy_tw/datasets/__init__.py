"""Training and test data.  Importing this does not import torchvision."""

from byzpy_tw.datasets.arrays import arrays
from byzpy_tw.datasets.cifar_files import cifar10
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.idx import write_idx
from byzpy_tw.datasets.image_folders import images
from byzpy_tw.datasets.mnist_files import fashion_mnist, mnist
from byzpy_tw.datasets.shipped import mnist5k
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.datasets.text import text

__all__ = [
    "BUILTIN",
    "Dataset",
    "Split",
    "arrays",
    "cifar10",
    "fashion_mnist",
    "images",
    "mnist",
    "mnist5k",
    "synthetic",
    "text",
    "write_idx",
]

# name, factory, aliases
BUILTIN = (
    ("mnist", mnist, ()),
    ("fashion-mnist", fashion_mnist, ()),
    ("cifar10", cifar10, ()),
    ("mnist5k", mnist5k, ()),
    ("synthetic", synthetic, ()),
    ("text", text, ()),
    ("arrays", arrays, ()),
    ("images", images, ()),
)
