"""The model of a run in plain torch: docs/how-to/use-a-model.md, and the check of its inputs."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import datasets, models
from byzpy_tw.report.input_check import check_inputs
from tests.support import PATIENCE, folder

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "use-a-model.md"


class PageTests(SynchronousTestCase):
    """The page's blocks, one after the other."""

    @pytest.mark.slow
    def test_it_runs(self) -> None:
        """The model has the run's accuracy, is trained further by hand and by the run, and
        is exported; no input is warned of."""
        blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        self.assertEqual(len(blocks), 12)
        here = folder(self)
        done = subprocess.run(
            [sys.executable, "-W", "error:the model was given", "-c", "\n".join(blocks)],
            capture_output=True, text=True, timeout=PATIENCE, cwd=here,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("finished: 40 rounds", done.stdout)
        self.assertTrue((here / "model.pt2").exists())
        self.assertTrue((here / "runs" / "second" / "init.safetensors").exists())


class GivenParametersTests(SynchronousTestCase):
    """A run that begins with parameters from a file."""

    def test_a_factory_that_loads_them(self) -> None:
        """A model whose factory loads parameters begins with these."""
        path = folder(self) / "model.pth"
        given = nn.Linear(4, 2)
        torch.save(given.state_dict(), path)

        def factory() -> nn.Module:
            model = nn.Linear(4, 2)
            model.load_state_dict(torch.load(path, map_location="cpu"))
            return model

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "for .* copying from a non-meta parameter")
            built = models.build(factory, {}, seed=3)
        self.assertTrue(torch.equal(built.weight, given.weight))


class InputCheckTests(SynchronousTestCase):
    """Inputs that are not normalised are wrong, and torch does not say so."""

    def setUp(self) -> None:
        self.data = datasets.mnist5k()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        check_inputs(self.model, self.data)
        self.x = self.data.test.x[:4]

    def warned(self, model: nn.Module, inputs: torch.Tensor) -> list[warnings.WarningMessage]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model(inputs)
        return found

    def test_bytes(self) -> None:
        """Bytes are refused, each time, with the way out."""
        for _ in range(2):
            error = self.assertRaises(TypeError, self.model, self.x)
            self.assertIn("result.dataset().inputs(x)", str(error))

    def test_converted_bytes(self) -> None:
        """Bytes made floats are warned of once, where the model was called."""
        [warning] = self.warned(self.model, self.x.float())
        self.assertIn("inputs from 0 to 255", str(warning.message))
        self.assertIn("result.dataset().inputs(x)", str(warning.message))
        self.assertEqual(warning.filename, __file__)
        self.assertEqual(self.warned(self.model, self.x.float()), [])

    def test_inputs(self) -> None:
        """Normalised inputs, and those that augmentation or noise changed, pass."""
        inputs = self.data.inputs(self.x)
        for each in (inputs, inputs + 0.5 * torch.randn_like(inputs), inputs[:0]):
            self.assertEqual(self.warned(copy.deepcopy(self.model), each), [])

    def test_data_of_floats(self) -> None:
        """A dataset whose examples are floats says nothing about a range."""
        model = nn.Linear(9, 2)
        check_inputs(model, datasets.synthetic(n=40, classes=2, features=9))
        self.assertEqual(self.warned(model, torch.full((1, 9), 1e6)), [])

    def test_tensors_without_values(self) -> None:
        """Where there are no values to look at, the model is called as without the check."""
        inputs = self.data.inputs(self.x)
        torch.testing.assert_close(
            torch.func.vmap(self.model)(inputs[:, None])[:, 0], self.model(inputs)
        )
        meta = copy.deepcopy(self.model).to("meta")
        self.assertEqual(meta(inputs.to("meta")).shape, (4, 10))

    def test_is_no_part_of_the_state(self) -> None:
        """It is copied and pickled with a model, and its state dict is that of the run's model."""
        for model in (copy.deepcopy(self.model), pickle.loads(pickle.dumps(self.model))):
            self.assertRaises(TypeError, model, self.x)
            self.assertEqual(list(model.state_dict()), ["1.weight", "1.bias"])

    def test_export(self) -> None:
        """The check is no part of what is exported."""
        inputs = self.data.inputs(self.x)
        loaded = torch.export.export(self.model, (inputs,)).module()
        torch.testing.assert_close(loaded(inputs), self.model(inputs))
