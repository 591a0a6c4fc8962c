"""Outputs of models: tensors in containers of any kind."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import MappingProxyType
from typing import Any

import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.tasks.outputs import map_outputs, tensors_in

Pair = namedtuple("Pair", "one two")


class Answer(OrderedDict):
    """A mapping as those of transformers: its items are attributes, and it has no `update`."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.__dict__[name] = value

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("not to be updated")


class OutputsTests(SynchronousTestCase):
    def test_each_kind_of_container(self) -> None:
        """It is of its own class again, and what is no tensor stays."""
        answer = Answer()
        answer["logits"] = torch.zeros(2)
        given = [Pair(torch.zeros(1), (torch.zeros(3), None)), answer, {"a": torch.zeros(4)}]
        found = map_outputs(lambda tensor: tensor + 1, given)
        self.assertEqual([t.tolist() for t in tensors_in(found)], [[1.0] * n for n in (1, 3, 2, 4)])
        self.assertEqual([type(item) for item in found], [Pair, Answer, dict])
        self.assertIs(found[0].two[1], None)
        self.assertIs(found[1].logits, found[1]["logits"])
        self.assertEqual(float(torch.cat(list(tensors_in(given))).sum()), 0.0)

    def test_a_mapping_that_cannot_be_written_to(self) -> None:
        """It becomes a dict."""
        found = map_outputs(torch.neg, MappingProxyType({"a": torch.ones(1)}))
        self.assertEqual(found, {"a": torch.tensor([-1.0])})
