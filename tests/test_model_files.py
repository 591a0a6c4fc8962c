"""Initial values from a file, frozen values from a data root, and files of trained models."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, models
from byzpy_tw.config.merge import drop_unused, merge_options
from byzpy_tw.config.paths import resolve_paths
from byzpy_tw.config.run_config import RunConfig, from_dict, options_digest
from byzpy_tw.errors import CannotRecord, ConfigError, RunDirectoryError, UnsuitableModel
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.records.initial_values import FILE, identify_initial_values, use_initial_values
from byzpy_tw.records.resume import merge_config
from byzpy_tw.records.saved_model import check_can_save, save_model
from byzpy_tw.workers.building import build_host, make_model
from tests.support import folder
from tests.trial_models import SPEC, Plain, Tied, named, names


class Backbone(Plain):
    """A head on a frozen layer, whose values come from a file of the data root."""

    def __init__(
        self, classes: int, shape: tuple[int, ...], root: Path, init: str = "backbone"
    ) -> None:
        super().__init__(classes, shape)
        self.a.requires_grad_(False)
        self.register_buffer("scale", torch.ones(16))
        models.load_values(self, root, init)


class FrozenLast(Tied):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.b.requires_grad_(False)


class Plugin:
    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration(named("m", m), m) for m in (Plain, Tied, Backbone, FrozenLast)]


class FilesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.names, self.here = names(files=Plugin()), folder(self)

    def model(self, kind: Any, **options: Any) -> nn.Module:
        spec = evolve(SPEC, model=named("m", kind))
        data = self.names.make("dataset", spec.dataset)
        return make_model(spec, self.names, data, **options)

    def write(self, values: dict[str, Tensor], name: str = "values") -> Path:
        path = self.here / f"{name}.safetensors"
        save_file({key: value.detach().clone() for key, value in values.items()}, path)
        return path


class FirstValuesTests(FilesCase):
    """--init FILE."""

    def config(self, path: Path) -> RunConfig:
        return RunConfig(in_process=True, init=str(path))

    def values(self, kind: Any = Plain) -> dict[str, Tensor]:
        model = self.model(kind)
        return {name: leaf + 1 for name, leaf in trained_parameters(model)}

    def test_they_are_taken(self) -> None:
        """The trained parameters have them, and the folder keeps them for later."""
        values = self.values(FrozenLast)
        path, model, kept = self.write(values), self.model(FrozenLast), self.here / "run"
        kept.mkdir()
        digest = use_initial_values(self.config(path), model, kept, {}, keep=True)
        found = dict(trained_parameters(model))
        self.assertEqual(found.keys(), values.keys())
        self.assertTrue(all(torch.equal(found[name], values[name]) for name in found))
        path.unlink()
        again = self.model(FrozenLast)
        self.assertEqual(
            use_initial_values(self.config(path), again, kept, {"init": digest}), digest
        )
        flat = [torch.cat([p.reshape(-1) for p in m.parameters()]) for m in (model, again)]
        self.assertTrue(torch.equal(*flat))
        self.assertIsNone(use_initial_values(RunConfig(in_process=True), again, kept, {}))

    def test_its_content_decides(self) -> None:
        """The digest of the file is on record and decides `bits`; where it lies does not."""
        path = self.write(self.values())
        copy = self.write(self.values(), "copy")
        one, two = (identify_initial_values(self.config(each)) for each in (path, copy))
        self.assertEqual(one.init_sha256, hashlib.sha256(path.read_bytes()).hexdigest())
        self.assertEqual(one.bits, two.bits)
        self.assertNotIn("init", one.result_options)
        self.assertNotEqual(one.bits, RunConfig(in_process=True).bits)
        self.assertEqual(from_dict(json.loads(json.dumps(one.to_dict()))).bits, one.bits)
        self.assertEqual(resolve_paths(evolve(one, init="~/x")).init, str(Path.home() / "x"))
        self.write({name: value + 1 for name, value in self.values().items()}, "copy")
        for refuse in (
            lambda: identify_initial_values(evolve(one, init=str(copy))),
            lambda: use_initial_values(evolve(one, init=str(copy)), self.model(Plain), None, {}),
        ):
            error = self.assertRaises(ConfigError, refuse)
            self.assertIn(f"and must have {one.init_sha256} (--init-sha256): put", str(error))
        other = merge_options({"init": "other"}, one.to_dict())
        self.assertIsNone(other.get("init_sha256"))
        alone = RunConfig(in_process=True, init_sha256=one.init_sha256)
        self.assertIn(
            "no use without --init", str(self.assertRaises(ConfigError, drop_unused, alone))
        )

    def test_resuming(self) -> None:
        """The file may lie elsewhere; an older record has its path among the bits, and keeps it."""
        new = identify_initial_values(self.config(self.write(self.values())))
        moved = merge_config(new, {"init": "elsewhere"})
        self.assertEqual((moved.init, moved.bits), ("elsewhere", new.bits))
        for saved, init in ((new, None), (RunConfig(in_process=True), "x")):
            error = self.assertRaises(ConfigError, merge_config, saved, {"init": init})
            self.assertIn("would make it another run", str(error))
        known = RunConfig(in_process=True, init="values.safetensors").to_dict()
        del known["init_sha256"]
        options = {**RunConfig(in_process=True).result_options, "init": "values.safetensors"}
        old = from_dict(known)
        self.assertEqual(old.bits, options_digest(options))
        self.assertEqual(resolve_paths(merge_config(old, {"threads": 2})).bits, old.bits)
        self.assertRaises(ConfigError, merge_config, old, {"init": "elsewhere"})

    def test_a_file_of_the_whole_model(self) -> None:
        """One that a run saved fits: with frozen values, buffers and both names of tied ones."""
        model = self.model(FrozenLast)
        save_model(model, path := self.here / "whole.safetensors")
        other = self.model(FrozenLast)
        with torch.no_grad():
            for _, leaf in trained_parameters(other):
                leaf.zero_()
        use_initial_values(self.config(path), other, None, {})
        self.assertTrue(
            torch.equal(other.get_parameter("c.weight"), model.get_parameter("c.weight"))
        )

    def test_one_name_of_a_tied_parameter(self) -> None:
        """It suffices, whichever it is: other programs write one alone."""
        values = self.values(FrozenLast)
        for name in ("c.weight", "e.weight"):
            given = {key: value for key, value in values.items() if key != "c.weight"}
            path = self.write({**given, name: values["c.weight"]})
            model = self.model(FrozenLast)
            use_initial_values(self.config(path), model, None, {})
            self.assertTrue(torch.equal(model.get_parameter("c.weight"), values["c.weight"]))
            frozen: Any = self.model(FrozenLast).requires_grad_(False)
            whole = {
                k: v for k, v in frozen.state_dict().items() if k not in ("c.weight", "e.weight")
            }
            self.write({**whole, name: values["c.weight"]}, "tied")
            models.load_values(frozen, self.here, "tied")
            self.assertTrue(torch.equal(frozen.e.weight, values["c.weight"]))

    def refused(self, words: str, values: dict[str, Tensor], kind: Any = FrozenLast) -> None:
        path = self.write(values)
        error = self.assertRaises(
            ConfigError, use_initial_values, self.config(path), self.model(kind), None, {}
        )
        self.assertIn(words, str(error))
        self.assertIn(str(path), str(error))
        self.assertNotIn("\n", str(error))

    def test_of_another_model(self) -> None:
        """Each difference is told with names, shapes and dtypes."""
        good = self.values(FrozenLast)
        some = {name: value for name, value in good.items() if "a." not in name}
        self.refused("lacks 'a.bias', 'a.weight'", some)
        self.refused("lacks 'a.bias', 'a.weight', 'c.bias' and 2 more", {"x": torch.ones(1)})
        self.refused("has 'x', which the model has not", {**good, "x": torch.ones(1)})
        self.refused(
            "has 'a.bias' as float32 (3,), the model as float32 (16,)",
            {**good, "a.bias": torch.ones(3)},
        )
        self.refused("has 'a.bias' as float64 (16,)", {**good, "a.bias": torch.ones(16).double()})
        self.refused("'a.bias' holds NaN", {**good, "a.bias": torch.full((16,), torch.nan)})
        self.refused("'b.bias' is frozen in the model", {**good, "b.bias": torch.ones(4)})
        self.refused(
            "'c.weight' and 'e.weight' are one parameter",
            {**good, "e.weight": good["c.weight"] + 1},
        )

    def test_no_such_file(self) -> None:
        """Missing, a folder, or damaged: one line each."""
        path = self.write(self.values())
        whole = path.read_bytes()
        path.write_bytes(whole[:-7])
        cut, text = path, self.here / "text.safetensors"
        text.write_text("values")
        saved = self.here / "saved.pt"
        torch.save({"a": torch.ones(1)}, saved)
        for file, words in (
            (self.here / "none.safetensors", "none.safetensors is not there"),
            (self.here, "is a folder"), (cut, "is damaged"),
            (text, "is text: 'values', 6 bytes in all, expected a safetensors file"),
            (saved, "a zip archive"),
        ):  # fmt: skip
            error = self.assertRaises(
                ConfigError, use_initial_values, self.config(file), self.model(Plain), None, {}
            )
            self.assertIn(words, str(error))
            self.assertIn(str(file), str(error))

    def test_other_values_than_the_run_began_with(self) -> None:
        """They are no substitute for what was in the folder."""
        path = self.write(self.values())
        (kept := self.here / "run").mkdir()
        digest = use_initial_values(self.config(path), self.model(Plain), kept, {}, keep=True)
        self.write({name: value + 1 for name, value in self.values().items()})
        begun = {"init": digest}
        use_initial_values(self.config(path), self.model(Plain), kept, begun)
        (kept / FILE).unlink()
        error = self.assertRaises(
            RunDirectoryError, use_initial_values, self.config(path), self.model(Plain), kept, begun
        )
        self.assertIn("began with other values", str(error))
        path.unlink()
        error = self.assertRaises(
            RunDirectoryError, use_initial_values, self.config(path), self.model(Plain), kept, begun
        )
        self.assertIn(f"{kept / FILE} is not there", str(error))
        self.write(self.values())
        # A folder of a run that came to nothing is used again.
        use_initial_values(self.config(path), self.model(Plain), kept, {}, keep=True)
        self.assertTrue((kept / FILE).exists())


class FrozenValuesTests(FilesCase):
    """init=NAME of a model, from DATA_ROOT/NAME.safetensors."""

    def host(self, **changed: Any) -> Any:
        spec = evolve(SPEC, model=named("m", Backbone), **changed)
        return build_host(spec, self.names, data_root=self.here)

    def values(self) -> dict[str, Tensor]:
        return {"a.weight": torch.randn(16, 9), "a.bias": torch.randn(16),
                "scale": torch.ones(16)}  # fmt: skip

    def test_they_are_read(self) -> None:
        """Frozen parameters have the values of the file; a change of these changes the digest."""
        values = self.values()
        self.write(values, "backbone")
        host = self.host()
        self.assertEqual(host.dimension, 16 * 4 + 4)
        self.assertTrue(torch.equal(host.model.a.weight, values["a.weight"]))
        self.write({**values, "a.bias": values["a.bias"] + 1e-6}, "backbone")
        one, other = host.trial_outcome.trial, self.host().trial_outcome.trial
        self.assertTrue(one.has_other_frozen(other))

    def test_mistakes(self) -> None:
        """One line each, with the file and what was expected."""
        good = self.values()
        for name, values, words in (
            ("other", good, "backbone.safetensors is not there"),
            ("backbone", {"scale": torch.ones(16)}, "lacks 'a.bias', 'a.weight'"),
            ("backbone", {**good, "b.bias": torch.ones(7)}, "(or leave it out of the file)"),
        ):
            self.write(values, name)
            error = self.assertRaises(UnsuitableModel, self.host)
            self.assertIn(words, str(error))
        model = Plain(4, (9,))
        for name in ("../x", "/etc/x", "", ".hidden"):
            error = self.assertRaises(UnsuitableModel, models.load_values, model, self.here, name)
            self.assertIn("is a name", str(error))
        error = self.assertRaises(UnsuitableModel, models.load_values, model, None, "x")
        self.assertIn("needs a data root", str(error))

    def test_a_body_of_torchvision(self) -> None:
        """Its head for other classes is not read, and hides no other difference."""
        from torchvision.models import resnet18, resnet34

        def load(**changed: Any) -> nn.Module:
            given = {"arch": "resnet18", "init": "body", "trained": "head", "classes": 3,
                     "shape": (3, 32, 32), "root": self.here, **changed}  # fmt: skip
            return models.torchvision_model(**given)

        body = resnet18()
        self.write(body.state_dict(), "body")
        model = load()
        for name, value in body.state_dict().items():
            same = value.shape == model.state_dict()[name].shape
            self.assertEqual(same, not name.startswith("fc."))
            self.assertTrue(not same or torch.equal(value, model.state_dict()[name]), name)
        whole: Any = load(classes=1000)
        self.assertTrue(torch.equal(whole.fc.weight, body.fc.weight))
        with torch.device("meta"):
            error = self.assertRaises(UnsuitableModel, load, trained="all")
            deeper = {name: torch.empty(v.shape, dtype=v.dtype, device="cpu")
                      for name, v in resnet34().state_dict().items()}  # fmt: skip
        self.assertIn("'fc.bias' as float32 (1000,), the model as float32 (3,)", str(error))
        self.write(deeper, "body")
        with torch.device("meta"):
            error = self.assertRaises(UnsuitableModel, load)
        self.assertIn("'layer1.2.bn1.bias', 'layer1.2.bn1.num_batches_tracked', ", str(error))
        self.assertNotIn("fc.", str(error))

    def test_of_a_model_without_frozen_parameters(self) -> None:
        """All values are needed, and taken."""
        path = self.write({name: leaf + 1 for name, leaf in Plain(4, (9,)).named_parameters()})
        loaded = models.load_values(model := Plain(4, (9,)), self.here, path.stem)
        self.assertTrue(torch.equal(model.a.weight, load_file(path)["a.weight"]))
        self.assertIs(loaded, model)
        self.write({"a.weight": torch.ones(16, 9)})
        error = self.assertRaises(
            UnsuitableModel, models.load_values, Plain(4, (9,)), self.here, path.stem
        )
        self.assertIn("lacks 'a.bias', 'b.bias', 'b.weight'", str(error))


class SavedTests(FilesCase):
    """--save-model FILE, and `Result.save_model`."""

    def test_it_loads_into_plain_torch(self) -> None:
        """By one line, all of it; tied weights stay tied."""

        def factory() -> nn.Module:
            tied = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
            tied[2].weight = tied[0].weight
            tied.register_buffer("table", torch.arange(3))
            return tied

        model = models.build(factory, {}, seed=1, plain=True)
        model(torch.randn(9, 4))
        save_model(model, path := self.here / "model.safetensors")
        other: Any = factory()
        other.load_state_dict(load_file(path), strict=True)
        x = torch.randn(3, 4)
        self.assertTrue(torch.equal(other.eval()(x), model.eval()(x)))
        self.assertIs(other[0].weight, other[2].weight)
        self.assertEqual([p.name for p in self.here.iterdir()], ["model.safetensors"])

    def test_where_it_cannot_be_written(self) -> None:
        """It is told before a run begins."""
        check_can_save(self.here / "model.safetensors")
        (self.here / "folder.safetensors").mkdir()
        for path, words in (
            (self.here / "model.pt", "must end in .safetensors"),
            (self.here / "folder.safetensors", "it is a folder"),
            (self.here / "none" / "m.safetensors", "there is no folder"),
        ):
            self.assertIn(words, str(self.assertRaises(ConfigError, check_can_save, path)))

    def test_what_the_format_cannot_hold(self) -> None:
        """It is one error, and leaves no file."""
        model = nn.Linear(2, 2)
        path = self.here / "model.safetensors"
        model.register_buffer("sparse", torch.eye(3).to_sparse())
        error = self.assertRaises(CannotRecord, save_model, model, path)
        self.assertIn(str(path), str(error))
        self.assertNotIn("\n", str(error))
        self.assertEqual(os.listdir(self.here), [])
