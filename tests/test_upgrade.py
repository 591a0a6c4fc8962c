"""The compatibility of versions that docs/how-to/upgrade.md states."""

from __future__ import annotations

import json

import attrs
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.errors import BadRequest, ConfigError, ServerDiffers
from byzpy_tw.plugins import load
from byzpy_tw.protocol.commands import PROTOCOL
from byzpy_tw.trainer.handshake import Handshake
from byzpy_tw.workers.environment import environment
from byzpy_tw.workers.spec import RunSpec
from tests.test_docs import DOCS

PAGE = " ".join((DOCS / "how-to" / "upgrade.md").read_text(encoding="utf-8").split())


class ServersTests(SynchronousTestCase):
    """A trainer and a server of different versions."""

    def test_the_protocol(self) -> None:
        """The page has the number of this version."""
        self.assertIn(f"`byzpy_tw/protocol/commands.py`, now {PROTOCOL};", PAGE)

    def test_each_difference(self) -> None:
        """Python, torch, byzpy_tw, the instruction set and the fixed gradient are warned of, with
        the page's words; --strict refuses each."""
        self.assertIn("*results may differ in their last bits*", PAGE)
        registry = load(only=())
        mine = environment(registry, probe="p", device="cpu", threads=1)
        own = {**registry.distributions, "byzpy-tw": "9.9"}
        changes: dict[str, object] = {
            "python": "9", "torch": "9", "instructions": "other", "probe": "q", "plugins": own,
        }  # fmt: skip
        for name, value in changes.items():
            lines: list[str] = []
            theirs = evolve(mine, **{name: value})
            config = RunConfig(local=1)
            Handshake(config, registry, lines.append).compare("s", mine, theirs)
            self.assertEqual(len(lines), 1, name)
            self.assertIn("results may differ in their last bits", lines[0])
            strict = Handshake(evolve(config, strict=True), registry, lines.append)
            self.assertRaises(ServerDiffers, strict.compare, "s", mine, theirs)

    def test_an_older_one(self) -> None:
        """A server takes the spec of a trainer that knows no task, and refuses an option that
        it does not know itself."""
        spec = RunConfig(local=1, batches="draws").spec()
        found = json.loads(spec.to_json())
        self.assertNotIn("task", found)
        self.assertEqual(RunSpec.from_json(json.dumps(found).encode()), spec)
        later = json.dumps({**found, "later": 1}).encode()
        self.assertRaises(BadRequest, RunSpec.from_json, later)


class FolderTests(SynchronousTestCase):
    """The options in a run's folder."""

    def test_an_older_one(self) -> None:
        """Without the options that came after 0.1 the configuration is the same run's."""
        config = RunConfig(local=1, seed=7)
        added = {f.name for f in attrs.fields(RunConfig) if f.metadata.get("added")}
        self.assertIn("task", added)
        old = {name: value for name, value in config.to_dict().items() if name not in added}
        before = {f.name: f.metadata["before"] for f in attrs.fields(RunConfig)
                  if "before" in f.metadata}  # fmt: skip
        # The defaults are others.
        self.assertEqual(before, {"batches": "draws", "search": "exact"})
        config = attrs.evolve(config, **before)
        self.assertEqual(from_dict(old), config)
        self.assertEqual(from_dict(old).bits, config.bits)
        self.assertFalse(added & config.result_options.keys())

    def test_a_newer_one(self) -> None:
        """An option that this version does not know is refused by name."""
        newer = {**RunConfig(local=1).to_dict(), "later": 1}
        error = self.assertRaises(ConfigError, from_dict, newer)
        self.assertIn("later", str(error))
        self.assertEqual(error.code, "BAD_CONFIG")
