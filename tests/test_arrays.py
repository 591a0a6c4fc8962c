"""A user's own arrays: read from each kind of file."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import arrays
from byzpy_tw.datasets.array_files import open_arrays
from byzpy_tw.errors import (
    BadParameter,
    ByzpyTwError,
    UnsuitableData,
)
from byzpy_tw.objects.data import to_dataset
from byzpy_tw.plugins.shorthand import registry
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.shards import make_shards
from byzpy_tw.workers.spec import RunSpec
from tests.array_files import (
    WRITERS,
    ArraysCase,
    made,
    write_npy,
    write_npz,
    write_safetensors,
)
from tests.support import folder, servers, train


class ReadTests(ArraysCase):
    def test_three_kinds_of_files(self) -> None:
        """They are the same data; all but the archive are mapped."""
        digests, given = set(), made()
        for write in WRITERS:
            self.root = folder(self)
            write(self.root, given)
            data = self.read()
            self.assertTrue(np.array_equal(data.train.x.numpy(), given["x_train"]))
            self.assertTrue(np.array_equal(data.test.y.numpy(), given["y_test"]))
            self.assertEqual((data.classes, data.name), (3, "ours"))
            self.assertEqual(data.mapped, write is not write_npz)
            self.assertEqual(data.held_bytes, 0 if data.mapped else data.nbytes)
            digests.add(data.digest())
        self.assertEqual(len(digests), 1)

    def test_no_write_reaches_a_file(self) -> None:
        """Mapped tensors may be written to, without a warning, and files stay."""
        for write in (write_npy, write_safetensors):
            self.root = folder(self)
            write(self.root, made())
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                data = self.read()
            before = data.digest()
            data.train.x.zero_()
            self.assertEqual(self.read().digest(), before)

    def test_read_only_root(self) -> None:
        """Nothing is written beside the files."""
        write_npy(self.root, made())
        before = sorted(self.root.rglob("*"))
        self.root.chmod(0o555)
        self.addCleanup(self.root.chmod, 0o755)
        self.read()
        self.assertEqual(sorted(self.root.rglob("*")), before)

    def test_types(self) -> None:
        """Numbers of any size and order, in any layout; half floats of safetensors."""
        given, expected = made(), None
        for change in (
            lambda a: a,
            np.asfortranarray,
            lambda a: a.astype(a.dtype.newbyteorder(">")),
        ):
            for write in (write_npz, write_npy):
                self.root = folder(self)
                write(self.root, {key: change(array) for key, array in given.items()})
                digest = self.read().digest()
                expected = expected or digest
                self.assertEqual(digest, expected)
        halves = {k: torch.from_numpy(a) for k, a in given.items()}
        halves["x_train"], halves["x_test"] = (
            halves[k].to(torch.bfloat16) for k in ("x_train", "x_test")
        )
        save_file(halves, folder(self) / "x")
        self.root = folder(self)
        save_file(halves, self.root / "ours.safetensors")
        self.assertTrue(torch.equal(self.read().train.x, halves["x_train"]))

    def test_several(self) -> None:
        """Arrays of a name each are several inputs and targets."""
        given = made()
        given |= {
            f"x_{p}.text": np.zeros((n, 5), np.int32) for p, n in (("train", 40), ("test", 10))
        }
        given |= {f"x_{p}.image": given.pop(f"x_{p}") for p in ("train", "test")}
        given |= {f"y_{p}.label": given.pop(f"y_{p}") for p in ("train", "test")}
        for write in WRITERS:
            self.root = folder(self)
            write(self.root, given)
            data = self.read(classes=3)
            self.assertEqual(data.shape, {"image": (4,), "text": (5,)})
            self.assertEqual((list(data.train.y), data.classes), (["label"], 3))
            self.assertEqual(self.read().classes, None)

    def test_labels_of_any_size(self) -> None:
        """Whole numbers, one for each example, are classes: as many as the largest says."""
        for kind in (np.uint8, np.int16, np.uint16, np.int64):
            given = {**made(), "y_test": np.array([5] * 10)}
            given |= {key: given[key].astype(kind) for key in ("y_train", "y_test")}
            write_npz(self.root, given)
            data = self.read()
            self.assertEqual((data.classes, data.train.y.dtype), (6, torch.int64))
            self.assertEqual(self.read(classes=9).classes, 9)
        write_npz(self.root, {**given, **{k: given[k].astype("f4") for k in ("y_train", "y_test")}})
        self.assertIsNone(self.read().classes)

    def test_normalisation(self) -> None:
        """Numbers of the name, or arrays beside the others with one for each channel."""
        write_npz(self.root, made())
        data = self.read(mean=0.5, std=2)
        self.assertEqual((data.mean, data.std), ((0.5,), (2.0,)))
        write_npz(self.root, {**made(), "mean": np.arange(4.0), "std": np.float64(2)})
        data = self.read()
        self.assertEqual((data.mean, data.std), ((0.0, 1.0, 2.0, 3.0), (2.0,)))
        self.refused(BadParameter, "ours.npz has mean already: leave out mean=0.5", mean=0.5)

    def test_no_test_data(self) -> None:
        """Arrays of length 0."""
        write_npy(self.root, {k: a[: 0 if "test" in k else None] for k, a in made().items()})
        self.assertIn("nothing will be evaluated", self.read().empty()[0])

    def test_larger_than_memory(self) -> None:
        """A mapping takes no memory, whatever its size: here of a file without content."""
        arrays = {**made(), "x_train": np.zeros((40, 4), np.float32)}
        write_npy(self.root, arrays)
        rows, width = 40, 2**33  # 1.25 TiB
        file = self.root / "ours" / "x_train.npy"
        with file.open("wb") as out:
            np.lib.format.write_array_header_1_0(
                out, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
            )
            out.truncate(out.tell() + rows * width * 4)
        x = open_arrays(self.root, "ours").read("x_train")
        self.assertEqual(x.shape, (rows, width))
        self.assertEqual(x[-1, -3:].tolist(), [0.0] * 3)


class PropertyTests(ArraysCase):
    @settings(deadline=None, max_examples=30)
    @given(
        st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"]),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        st.integers(0, 2**32 - 1),
    )
    def test_round_trip(self, kind: str, shape: list[int], seed: int) -> None:
        """Numbers of each type and shape come back to the bit, from each kind of file."""
        bits = np.random.default_rng(seed).integers(0, 2 if kind == "?" else 100, (9, *shape))
        x = bits.astype(kind)
        for number, write in enumerate(WRITERS):
            root = self.root / str(number)
            root.mkdir(exist_ok=True)
            write(root, {"x_train": x, "y_train": bits, "x_test": x[:2], "y_test": bits[:2]})
            data = arrays(root=root, name="ours")
            self.assertEqual(data.train.x.numpy().dtype, x.dtype)
            self.assertTrue(np.array_equal(data.train.x.numpy(), x))
            self.assertTrue(np.array_equal(data.test.y.numpy(), bits[:2]))

    @settings(deadline=None, max_examples=40)
    @given(
        st.sampled_from(["f2", "f4", "f8", "i1", ">i2", "i4", "i8", "u1", "u2", ">u4", "u8", "?"]),
        st.sampled_from(["f4", "i1", "i8", "u1", "u2", ">u8", "?"]),
        st.sampled_from([(), (1,), (3,)]),
    )
    def test_of_files_and_of_python(self, x_kind: str, y_kind: str, shape: tuple[int, ...]) -> None:
        """The same arrays are the same data, in a file or as objects."""
        bits = np.random.default_rng(0).integers(0, 2, (12, 3))
        y = (bits[:, :1] * np.ones((1, *shape)).ravel()).reshape(12, *shape).astype(y_kind)
        x = bits.astype(x_kind)
        found = {"x_train": x[:9], "y_train": y[:9], "x_test": x[9:], "y_test": y[9:]}
        write_npz(self.root, found)
        one, other = self.read(), to_dataset(tuple(found.values()))
        self.assertEqual(one.digest(), other.digest())
        self.assertEqual(one.classes, other.classes)
        unsigned = np.dtype(x_kind).kind == "u" and x.itemsize > 1
        self.assertEqual(one.train.x.dtype == torch.int64, unsigned or x_kind == "i8")

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_damaged_anyhow(self, drawn: st.DataObject) -> None:
        """Bytes that are changed or missing give an error of this package, or other numbers."""
        number = drawn.draw(st.integers(0, 2))
        root = self.root / str(number)
        if not root.exists():
            root.mkdir()
            WRITERS[number](root, made(8))
        file = next(p for p in sorted(root.rglob("*")) if p.is_file())
        whole = file.read_bytes()
        content = bytearray(whole)
        # Half of them where headers are, at either end.
        near = st.integers(0, min(200, len(whole) - 1))
        places = st.one_of(st.integers(0, len(whole) - 1), near, near.map(lambda n: -1 - n))
        for place in drawn.draw(st.lists(places, max_size=4)):
            content[place] = drawn.draw(st.integers(0, 255))
        content = content[: drawn.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))]
        file.write_bytes(content)
        try:
            arrays(root=root, name="ours").digest()
        except ByzpyTwError as e:
            self.assertNotIn("\n", str(e))
        finally:
            file.write_bytes(whole)


SPEC = RunSpec(
    dataset="arrays:name=ours", model="logreg", partition="given", shards=3, seed=3, batch_size=4,
    micro_batch_size=4, n=3, f=0,
)  # fmt: skip


class GivenTests(ArraysCase):
    """The nodes that the data names."""

    def setUp(self) -> None:
        super().setUp()
        self.nodes = np.random.default_rng(1).choice([7, 300, -2], 40)
        write_npz(self.root, {**made(), "node_train": self.nodes})

    def test_shards(self) -> None:
        """Each node has the examples of one number, in the order of their numbers."""
        shards = make_shards(SPEC, registry(), self.read())
        for shard, number in zip(shards, (-2, 7, 300), strict=True):
            self.assertEqual(shard.tolist(), np.flatnonzero(self.nodes == number).tolist())
            self.assertEqual(shard.dtype, np.int64)

    def test_another_number_of_nodes(self) -> None:
        """The error says which number is right."""
        for shards in (1, 2, 4):
            spec = evolve(SPEC, shards=shards, n=shards)
            error = self.assertRaises(UnsuitableData, make_shards, spec, registry(), self.read())
            words = f"names 3 nodes, and the run has {shards} honest ones: use --num-honest 3"
            self.assertIn(words, str(error))

    def test_data_that_names_none(self) -> None:
        """The error says how to name them."""
        data = evolve(self.read(), nodes=None)
        error = self.assertRaises(UnsuitableData, make_shards, SPEC, registry(), data)
        self.assertIn("data 'ours' names none: add an array node_train", str(error))

    def test_part_of_the_data(self) -> None:
        """Other nodes are other data."""
        data = self.read()
        self.assertNotEqual(evolve(data, nodes=data.nodes.flip(0)).digest(), data.digest())
        four = (data.train.x, data.train.y, data.test.x, data.test.y)
        self.assertEqual(evolve(data, nodes=None).digest(), sha256_of(*four))


class LocalTests(SynchronousTestCase):
    @pytest.mark.slow
    def test_each_place_has_its_own(self) -> None:
        """A server trains on arrays of its own, of as many classes as the trainer's."""
        here, there = folder(self), folder(self)
        for number, place in enumerate((here, there)):
            write_npy(place, made(60, seed=number))
        found = train(
            self, "--dataset", "arrays:name=ours,classes=3", "--model", "logreg", "--partition",
            "local", "--num-honest", "2", "--num-byz", "0", "--f", "0", "--aggregator", "mean",
            "--batch-size", "8", "--rounds", "3", "--data-root", str(here), "--remote-hosts",
            *servers(self, 1, "--data-root", str(there)),
        )  # fmt: skip
        self.assertEqual(found.code, 0, found.output)
        self.assertEqual(found.config["data_digest"], arrays(root=here, name="ours").digest())
