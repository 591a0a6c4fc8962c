"""Servers that lack a plugin, or have another version of one."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import MissingPlugin, UnknownName
from byzpy_tw.plugins import Registry, load
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.fake_server import HERE
from byzpy_tw.trainer.handshake import Handshake

PLUGINS = {"plug-a": ("1.0", "model", "a-model"), "plug-b": ("2.0", "attack", "b-attack")}
CONFIG = RunConfig(in_process=True, model="a-model", attack="b-attack")


class Plugin:
    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.made = kind, [Registration(name, lambda: None)]

    @hookimpl
    def register_models(self) -> list[Registration]:
        return self.made if self.kind == "model" else []

    @hookimpl
    def register_attacks(self) -> list[Registration]:
        return self.made if self.kind == "attack" else []


def registry() -> Registry:
    found = load()
    for distribution, (version, kind, name) in PLUGINS.items():
        [made] = Plugin(kind, name).made
        entry = evolve(
            found.entry(kind, {"model": "mlp", "attack": "empire"}[kind]),
            name=name, factory=made.factory, distribution=distribution, version=version,
        )  # fmt: skip
        found.names[kind][name] = entry
    return found


class MissingPluginTests(SynchronousTestCase):
    def refusal(self, command: str, **fields: str) -> Exception:
        """The error of a run whose server has plug-a 1.1, and lacks what has these `fields`."""

        def refuse(server: FakeServer, asked: str) -> None:
            if asked == command:
                raise UnknownName("it is not here").with_fields(**fields)

        here = evolve(HERE, plugins={"plug-a": "1.1"})
        server = FakeServer("s", here=here, before=refuse)
        self.successResultOf(Deferred.fromCoroutine(server.hello()))
        handshake, plugins = Handshake(CONFIG, registry(), lambda line: None), here.plugins
        if command == "open":
            asking: Any = handshake.open_run(server, "run", server, plugins)
        else:
            asking = handshake.spawn(server, [], plugins=plugins)
        return self.failureResultOf(Deferred.fromCoroutine(asking)).value

    def test_the_one_that_is_missing(self) -> None:
        """The advice is about it, not about one that is there at another version."""
        error = self.refusal("spawn", kind="attack", name="b-attack")
        self.assertIsInstance(error, MissingPlugin)
        self.assertIn("pip install plug-b==2.0", str(error))

    def test_the_same_version_without_the_name(self) -> None:
        """It lacks the name all the same."""
        error = self.refusal("spawn", kind="model", name="a-model")
        self.assertIsInstance(error, MissingPlugin)
        self.assertIn("plug-a==1.0", str(error))

    def test_no_plugin(self) -> None:
        """A name of this package is no plugin's: there is nothing to install."""
        self.assertIsInstance(self.refusal("spawn", kind="partition", name="iid"), UnknownName)

    def test_a_server_of_the_version_without_fields(self) -> None:
        """The advice is about what the command needs, and that server cannot have."""
        error = self.refusal("spawn")
        self.assertIsInstance(error, MissingPlugin)
        self.assertIn("pip install plug-b==2.0", str(error))

    def test_a_server_without_fields_that_has_the_plugin(self) -> None:
        """It has the distribution of all that the command needs: its own words stay."""
        self.assertIs(type(self.refusal("open")), UnknownName)
