"""A run's dataset, read where a process has it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.download import no_downloads
from byzpy_tw.plugins import Registry


def is_local(registry: Registry, partition: str) -> bool:
    """Return whether each place has data of its own with this `partition`, so that nodes stay."""
    return getattr(registry.make("partition", partition), "local", False)


def make_dataset(registry: Registry, dataset: str, partition: str, root: Path | None) -> Dataset:
    """Return the dataset; nothing is downloaded where `partition` is of each site's own data.

    Public examples in the place of a site's own would be trained on without anybody's notice.
    """
    why = f"with --partition {partition} each place trains on its own files"
    with no_downloads(why) if is_local(registry, partition) else nullcontext():
        data: Dataset = registry.make("dataset", dataset, root=root)
    return data
