"""Users' mistakes: each is one line, with its cause and its cure, and no traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.__main__ import main as other_commands
from byzpy_tw.cli.train import configuration, main
from byzpy_tw.config.server import Limits, ServerConfig
from byzpy_tw.errors import ByzpyTwError, format_error
from byzpy_tw.plugins import Registration, Registry, hookimpl, load
from byzpy_tw.protocol.keys import SERVER, TRAINER, Keys
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.tap import Options
from byzpy_tw.trainer.run import prepare_run, run_prepared
from tests.key_files import ClusterKeys
from tests.support import TWISTD, Process, folder

Row = tuple[str, int, tuple[str, ...]]  # what was typed, the exit code, words of the message

# Files that users have written, by name.
FILES = {
    "typo.toml": "ronds = 3\n",
    "typo-in-section.toml": '[aggregation]\npre-agregator = ["nnm"]\n',
    "section.toml": "[trainin]\nrounds = 3\n",
    "elsewhere.toml": "[data]\nrounds = 3\n",
    "twice.toml": "num-honest = 3\n[nodes]\nnum_honest = 4\n",
    "type.toml": '[training]\nrounds = "three"\n',
    "value.toml": "lr = -0.1\n",
    "truth.toml": "strict = 1\n",
    "list.toml": "lr-milestones = [10, 5]\n",
    "no-section.toml": "training = 3\n",
    "bare-word.toml": "# mine\naggregator = multi-krum\n",
    "no-equals.toml": "rounds 3\n",
    "binary.toml": "rounds = 3\n\udcff\n",
    "f.toml": "f = 4\n",
    "name.toml": '[aggregation]\naggregator = "multi krum"\n',
    "other-run.toml": 'run-dir = "elsewhere"\n',
    "garbage.pem": "no keys\n",
    "a-file": "",
}

TYPED: tuple[Row, ...] = (
    # where the nodes live
    ("", 2, ("BAD_CONFIG", "--remote-hosts", "--local N", "--in-process")),
    ("--in-process --local 2", 2, ("once", "2 of them")),
    ("--local 0", 2, ("--local must be a whole number of at least 1 and at most 256, got 0",)),
    ("--remote-hosts ucx://a:1", 2, ("BAD_ADDRESS", "'ucx'", "supported: tcp://HOST:PORT")),
    ("--remote-hosts 127.0.0.1:29000", 2, ("BAD_ADDRESS", "write tcp://HOST:PORT")),
    ("--remote-hosts tcp://a:0", 2, ("BAD_ADDRESS", "1 to 65535")),
    ("--remote-hosts tcp://a", 2, ("BAD_ADDRESS", "lacks a host or a port")),
    ("--remote-hosts tcp://::1:29000", 2, ("BAD_ADDRESS", "tcp://[::1]:29000")),
    ("--remote-hosts tcp://a:1,tcp://a:1", 2, ("BAD_ADDRESS", "listed twice")),
    ("--remote-hosts tcp://a:1 --min-servers 2", 2, ("--min-servers", "at most 1", "got 2")),
    ("--local 2 --max-nodes-per-server 1", 2, ("no room for n = 4", "use more servers")),
    # options
    ("--in-process --ronds 3", 2, ("unrecognized", "did you mean '--rounds'?")),
    ("--in-process run.toml", 2, ("unrecognized", "--config run.toml")),
    ("--in-process --rounds three", 2, ("--rounds: must be a whole number, got 'three'",)),
    ("--in-process --lr fast", 2, ("--lr: must be a number, got 'fast'",)),
    ("--in-process --rounds", 2, ("--rounds: expected one argument",)),
    ("--in-process --rounds 0", 2, ("--rounds must be a whole number of at least 1, got 0",)),
    ("--in-process --rounds 3000000000", 2, ("at most 2147483647",)),
    ("--in-process --lr -1", 2, ("--lr must be above 0, got -1",)),
    ("--in-process --lr 1e40", 2, ("--lr must be above 0 and at most 1e+30, got 1e+40",)),
    ("--in-process --num-honest 0", 2, ("--num-honest", "at least 1")),
    ("--in-process --worker-momentum 1", 2, ("--worker-momentum must be below 1, got 1.0",)),
    ("--in-process --keep-checkpoints 0", 2, ("a number of at least 1, or all, got '0'",)),
    ("--in-process --device tpu", 2, ("--device must be cpu, cuda, cuda:N or auto, got 'tpu'",)),
    ("--in-process --device mps", 2, ("--device must be cpu, cuda, cuda:N or auto, got 'mps'",)),
    ("--in-process --device cuda:99", 2, ("BAD_CONFIG", "--device cuda:99: ", "cpu or auto")),
    ("--local 2 --device cuda:99", 2, ("BAD_CONFIG", "--device cuda:99: ", "cpu or auto")),
    ("--remote-hosts tcp://a:1 --device cuda:99", 2, ("--device cuda:99: ", "cpu or auto")),
    ("--in-process --wire-dtype int8", 2, ("one of float32, bfloat16, float16, got 'int8'",)),
    ("--local 1 --heartbeat-timeout 50", 2, ("--heartbeat-timeout 50", "half", "60")),
    # impossible n and f
    ("--in-process --f 4", 2, ("--f 4", "n = 4", "use a smaller --f or more nodes")),
    ("--in-process --f 2", 2, ("multi-krum needs n >= f + 3, got n=4, f=2", "more nodes")),
    ("--in-process --q 4", 2, ("q", "4")),
    ("--in-process --aggregator bulyan", 2,
     ("bulyan needs n > 4f, got n=4, f=1", "more nodes")),
    ("--in-process --aggregator krum:f=9", 2, ("tolerate 9", "--f 1", "raise --f")),
    ("--in-process --pre-aggregator bucketing", 2, ("bucketing | multi-krum", "n=2, f=1")),
    ("--in-process --dataset mnist5k --strict", 2, ("GUARANTEE_MISSING", "n=4", "--strict")),
    ("--in-process --aggregator median --strict --num-honest 9 --num-byz 2", 2,
     ("GUARANTEE_MISSING", "2 Byzantine nodes are more than f = 1")),
    # names and their parameters
    ("--in-process --aggregator multi-crum", 2, ("UNKNOWN_NAME", "did you mean 'multi-krum'?")),
    ("--in-process --aggregator nnm", 2, ("UNKNOWN_NAME", "'nnm' is a pre-aggregator")),
    ("--in-process --aggregator 'nnm | krum'", 2, ("one rule", "--pre-aggregator")),
    ("--in-process --aggregator multi-krum:p=2", 2, ("BAD_PARAMETER", "'p'", "it takes: ")),
    ("--in-process --aggregator multi-krum:q=x", 2, ("BAD_PARAMETER", "q='x'", "int")),
    ("--in-process --aggregator krum:f=x", 2, ("BAD_PARAMETER", "f='x'", "int")),
    ("--in-process --aggregator krum:f=0.5", 2, ("BAD_PARAMETER", "f='0.5'", "int")),
    ("--in-process --aggregator krum:../x", 2, ("BAD_PARAMETER", "key=value")),
    ("--in-process --pre-aggregator nmn", 2, ("UNKNOWN_NAME", "did you mean 'nnm'?")),
    ("--in-process --attack empyre", 2, ("UNKNOWN_NAME", "did you mean 'empire'?")),
    ("--in-process --attack empire:skale=2", 2, ("BAD_PARAMETER", "did you mean 'scale'?")),
    ("--in-process --dataset nmist", 2, ("UNKNOWN_NAME", "did you mean 'mnist'?")),
    ("--in-process --dataset mnist5k:n=4", 2, ("BAD_PARAMETER", "'n'")),
    ("--in-process --dataset arrays", 2, ("BAD_PARAMETER", "write arrays:name=VALUE")),
    ("--in-process --dataset arrays:name=../ours", 2, ("BAD_PARAMETER", "not key=value")),
    ("--in-process --model big-cnn", 2, ("UNKNOWN_NAME", "small-cnn")),
    ("--in-process --dataset mnist5k --model resnet18:norm=layer", 2,
     ("BAD_PARAMETER", "norm='layer' is not group or batch")),
    ("--in-process --dataset mnist5k --model torchvision", 2,
     ("BAD_PARAMETER", "write torchvision:arch=VALUE")),
    ("--in-process --dataset mnist5k --init {here}/none.safetensors", 2,
     ("BAD_CONFIG", "none.safetensors is not there")),
    ("--in-process --dataset mnist5k --init {here}/typo.toml", 2,
     ("BAD_CONFIG", "typo.toml is text: ", "expected a safetensors file")),
    ("--in-process --save-model {here}/model.pt", 2,
     ("model.pt", "its name must end in .safetensors")),
    ("--in-process --save-model {here}/none/model.safetensors", 2,
     ("there is no folder", "make it first")),
    ("--in-process --partition strides", 2, ("UNKNOWN_NAME", "did you mean 'stride'?")),
    # files of options
    ("--in-process --config {here}/none.toml", 2,
     ("none.toml", "No such file", "--print-config")),
    ("--in-process --config {here}/typo.toml", 2,
     ("typo.toml: there is no option 'ronds'; did you mean 'rounds'?",)),
    ("--in-process --config {here}/typo-in-section.toml", 2,
     ("'pre-agregator'; did you mean 'pre-aggregator'? under [aggregation]",)),
    ("--in-process --config {here}/section.toml", 2,
     ("there is no section [trainin]; did you mean 'training'?",)),
    ("--in-process --config {here}/elsewhere.toml", 2,
     ("'rounds' does not belong under [data] but under [training]",)),
    ("--in-process --config {here}/twice.toml", 2, ("'num-honest' is given twice",)),
    ("--in-process --config {here}/type.toml", 2,
     ("type.toml: rounds under [training] must be a whole number of at least 1, got 'three'",)),
    ("--in-process --config {here}/value.toml", 2, ("lr must be above 0, got -0.1",)),
    ("--in-process --config {here}/truth.toml", 2, ("strict must be true or false, got 1",)),
    ("--in-process --config {here}/list.toml", 2, ("lr-milestones", "growing, got [10, 5]")),
    ("--in-process --config {here}/no-section.toml", 2, ("write [training] above",)),
    ("--in-process --config {here}/bare-word.toml", 2,
     ("bare-word.toml is not valid TOML", "line 2", "'aggregator = multi-krum'", "in quotes")),
    ("--in-process --config {here}/no-equals.toml", 2,
     ("Expected '='", "line 1", "'rounds 3'")),
    ("--in-process --config {here}/binary.toml", 2, ("not UTF-8 text (line 2)",)),
    ("--in-process --config {here}/f.toml", 2, ("--f 4", "f.toml and of the command line")),
    ("--in-process --config {here}/name.toml", 2, ("BAD_PARAMETER", "name.toml: aggregator")),
    # the page
    ("--in-process --web tcp:x", 2,
     ("BAD_CONFIG", "--web 'tcp:x'", "write --web tcp:8080:interface=127.0.0.1")),
    ("--in-process --web http://a:1", 2, ("--web", "no such kind of endpoint", "tcp, tcp6")),
    # keys
    ("--remote-hosts tcp://a:1 --keys no.pem", 2,
     ("BAD_KEYS", "no.pem", "No such file", "keygen")),
    ("--remote-hosts tcp://a:1 --keys {here}/garbage.pem", 2,
     ("BAD_KEYS", "lacks a private key")),
    ("--remote-hosts tcp://a:1 --keys {here}/server.pem", 2,
     ("BAD_KEYS", "is a server's file", "use the trainer.pem")),
    ("--remote-hosts tcp://a:1 --keys {here}/old.pem", 2, ("BAD_KEYS", "expired on", "keygen")),
    # run directories
    ("--in-process --run-dir {here}/used", 2, ("RUN_DIRECTORY", "another run", "--resume")),
    ("--in-process --run-dir {here}/busy", 2,
     ("RUN_DIRECTORY", f"in use by process {os.getpid()}")),
    ("--in-process --run-dir {here}/a-file", 2,
     ("RUN_DIRECTORY", "cannot write", "File exists")),
    ("--in-process --run-dir {here}/a-file/run", 2, ("RUN_DIRECTORY", "Not a directory")),
    ("--resume {here}/none", 2, ("RUN_DIRECTORY", "no run that was begun", "--run-dir")),
    ("--resume {here}/damaged", 2, ("RUN_DIRECTORY", "cannot read", "config.json")),
    ("--resume {here}/busy", 2, ("RUN_DIRECTORY", "in use by process")),
    ("--resume {here}/used --seed 7", 2,
     ("--seed 7 would make it another run: it was begun with 42",)),
    ("--resume {here}/used --run-dir {here}/other", 2, ("leave out --run-dir",)),
    ("--resume {here}/used --config {here}/other-run.toml", 2,
     ("other-run.toml", "leave out one")),
    ("--resume {here}/none --print-config", 2, ("RUN_DIRECTORY", "no run that was begun")),
)  # fmt: skip

COMMANDS: tuple[Row, ...] = (
    ("plugin", 2, ("invalid choice: 'plugin'", "plugins")),
    ("keygen {here}/a-file", 2, ("BAD_KEYS", "a-file")),
    ("report {here}/none", 2, ("RUN_DIRECTORY", "none holds no run", "name a run's folder")),
    ("report {here}/damaged", 2, ("RUN_DIRECTORY", "cannot read", "config.json")),
    ("sweep --device cuda:99", 2, ("BAD_CONFIG", "--device cuda:99: ", "cpu or auto")),
    ("keygen {here}/keys --days 0", 2, ("BAD_KEYS", "--days must be at least 1, got 0")),
)

# Of ``twistd byzpy-server``, which exits with 1 and adds where its help is.
SERVERS: tuple[Row, ...] = (
    ("--port {busy}", 1, ("CANNOT_LISTEN", "Address already in use", "choose another --port")),
    ("--port 70000", 1, ("--port must be", "at most 65535, got 70000")),
    ("--host 203.0.113.7 --port 0", 1, ("CANNOT_LISTEN", "203.0.113.7", "--host")),
    ("--device tpu --port 0", 1, ("--device must be cpu, cuda, cuda:N or auto, got 'tpu'",)),
    ("--device cuda:99 --port 0", 1, ("BAD_CONFIG", "--device cuda:99: ", "cpu or auto")),
    ("--max-nodes 0 --port 0", 1, ("--max-nodes must be", "at least 1, got 0")),
    ("--keys {here}/none.pem --port 0", 1, ("BAD_KEYS", "No such file", "keygen")),
    ("--keys {here}/trainer.pem --port 0", 1, ("BAD_KEYS", "is a trainer's file")),
    ("--keys {here}/server.pem --insecure --port 0", 1, ("exclude one another",)),
)


def written(case: Any) -> Path:
    """A folder with `FILES`, keys, and run directories that are used, in use and damaged."""
    here, cluster = folder(case), ClusterKeys()
    for name, text in FILES.items():
        (here / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    for name, pem in (
        ("server", cluster.pem(SERVER)),
        ("trainer", cluster.pem(TRAINER)),
        ("old", cluster.pem(TRAINER, starts=-60)),
    ):
        (here / f"{name}.pem").write_bytes(pem)
        (here / f"{name}.pem").chmod(0o600)
    used, busy = (RunDirectory.create(here / name) for name in ("used", "busy"))
    case.addCleanup(busy.close)
    config = configuration(["--in-process"]).to_dict()
    for directory in (used, busy):
        directory.write_config({"config": config, "run": "r"})
    used.append_round({"round": 0})
    used.close()
    x, y = np.zeros((40, 9), np.float32), np.arange(40) % 3
    x[7, 1] = np.nan
    np.savez(here / "ours.npz", x_train=x, y_train=y, x_test=x, y_test=y, node_train=y // 2)
    (here / "damaged").mkdir()
    (here / "damaged" / "config.json").write_text("{")
    return here


class MistakesTests(SynchronousTestCase):
    """Told before anything has started, in this process."""

    def setUp(self) -> None:
        self.here = written(self)

    def attempt(self, command: Any, words: str) -> tuple[int, str]:
        """Exit code and standard error of `command` with `words`."""
        errors = io.StringIO()
        arguments = shlex.split(words.format(here=self.here))
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = command(arguments)
            except SystemExit as e:
                code = int(str(e.code))
        return code, errors.getvalue()

    def check(self, row: Row, code: int, said: str) -> None:
        words, expected_code, expected = row
        self.assertEqual(code, expected_code, (words, said))
        for word in expected:
            self.assertIn(word, said, words)
        self.assertNotIn("Traceback", said)
        self.assertEqual(len(said.splitlines()), 1 + ("\nsee: " in said), said)

    def test_there_are_many(self) -> None:
        """The table covers what people get wrong, each way once."""
        rows = [*TYPED, *COMMANDS, *SERVERS, *BEGUN]
        self.assertGreaterEqual(len(rows), 90)
        self.assertEqual(len({words for words, _, _ in rows}), len(rows))

    def test_training(self) -> None:
        """``python -m byzpy_tw.train``: the code of the error, its words, the exit code."""
        for row in TYPED:
            elsewhere = "--run-dir" in row[0] or "--resume" in row[0]
            words = row[0] if elsewhere else f"{row[0]} --run-dir {{here}}/new"
            code, said = self.attempt(main, words)
            self.check(row, code, said)
            self.assertTrue(said.startswith("byzpy_tw: error: "), said)
            self.assertFalse((self.here / "new").exists(), f"{words} left a folder behind")

    def test_other_commands(self) -> None:
        """``python -m byzpy_tw``."""
        for words, expected_code, expected in COMMANDS:
            code, said = self.attempt(other_commands, words)
            self.assertEqual(code, expected_code, (words, said))
            for word in expected:
                self.assertIn(word, said)
            self.assertNotIn("Traceback", said)

    def test_servers(self) -> None:
        """``twistd byzpy-server``: what its options refuse, twistd prints."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            busy = taken.getsockname()[1]
            for words, _, expected in SERVERS:
                arguments = shlex.split(words.format(here=self.here, busy=busy))
                if "--host" not in arguments:
                    arguments += ["--host", "127.0.0.1"]
                said = str(self.assertRaises(UsageError, Options().parseOptions, arguments))
                for word in expected:
                    self.assertIn(word, said, words)

    @pytest.mark.slow
    def test_a_server_in_its_process(self) -> None:
        """A refusal ends twistd with exit code 1, one line, and no traceback."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            command = [*TWISTD, "-n", "--pidfile=", "byzpy-server", "--host", "127.0.0.1"]
            server = Process.start(self, [*command, "--port", port], cwd=self.here)
            self.assertEqual(server.wait(), 1, server.output)
        self.assertIn("CANNOT_LISTEN: cannot listen on 127.0.0.1", server.output)
        self.assertNotIn("Traceback", server.output)


class Extra:
    """A plugin that the trainer has, and no server."""

    @staticmethod
    @hookimpl
    def register_models() -> list[Registration]:
        def model(classes: int, shape: tuple[int, ...]) -> Any:
            from byzpy_tw.models import logreg

            return logreg(classes=classes, shape=shape)

        return [Registration("extra-model", model)]


SMALL = "--dataset synthetic:n=200,classes=4,features=9 --model logreg --batch-size 8"
OURS = f"--in-process {SMALL} --dataset arrays:name=ours --data-root {{here}}"

# Told by a run that has begun to prepare, or by a server.
BEGUN: tuple[Row, ...] = (
    (f"--remote-hosts tcp://127.0.0.1:1 {SMALL}", 1,
     ("SERVER_UNREACHABLE", "tcp://127.0.0.1:1", "refused", "twistd -n byzpy-server --port 1")),
    (f"--remote-hosts {{stranger}} {SMALL}", 1,
     ("SERVER_UNREACHABLE", "{stranger}", "is it a byzpy-server?")),
    (f"--remote-hosts {{plain}} --keys {{here}}/trainer.pem {SMALL}", 1,
     ("KEYS_REFUSED", "{plain}", "--keys")),
    (f"--remote-hosts {{keyed}} {SMALL}", 1, ("KEYS_REFUSED", "{keyed}", "--keys")),
    (f"--remote-hosts {{keyed}} --keys {{here}}/trainer.pem {SMALL}", 1,
     ("KEYS_REFUSED", "{keyed}", "cluster")),
    (f"--remote-hosts {{plain}} {SMALL} --model extra-model", 1,
     ("MISSING_PLUGIN", "{plain}", "'extra-model'", "pip install extra")),
    (f"--remote-hosts {{small}} {SMALL}", 1, ("SERVER_BUSY", "{small}", "--max-nodes", "2")),
    (f"--in-process {SMALL} --batch-size 500", 2,
     ("SHARD_TOO_SMALL", "examples, a batch needs 500", "--batches epochs:keep")),
    (f"--in-process {SMALL} --num-honest 900", 2,
     ("SHARD_TOO_SMALL", "into 900 shards", "fewer nodes")),
    (f"--in-process {SMALL} --dataset synthetic:n=0", 2,
     ("BAD_PARAMETER", "n must be a whole number of at least 1, got 0")),
    (f"--in-process {SMALL} --model mlp:hidden=-5", 2, ("BAD_PARAMETER", "hidden", "got -5")),
    (f"--in-process {SMALL} --dataset mnist --data-root {{here}}/a-file", 1,
     ("DATASET_UNAVAILABLE", "--dataset mnist5k", "train-images-idx3-ubyte", "--data-root")),
    (f"--in-process {SMALL} --dataset fashion-mnist --data-root {{here}}/empty", 1,
     ("DATASET_UNAVAILABLE", "download failed", "--dataset mnist5k", "--data-root")),
    # one's own data
    (f"--in-process {SMALL} --dataset arrays:name=nothing --data-root {{here}}", 1,
     ("DATASET_UNAVAILABLE", "{here} has neither nothing.npz nor nothing.safetensors nor")),
    (f"--in-process {SMALL} --dataset arrays:name=ours,classes=2 --data-root {{here}}", 1,
     ("UNSUITABLE_DATA", "{here}/ours.npz: ", "run from 0 to 2, expected 0 to 1 (classes=2)")),
    (f"{OURS} --partition given", 1,
     ("UNSUITABLE_DATA", "names 2 nodes", "3 honest ones: use --num-honest 2")),
    (f"{OURS} --aggregator median --strict", 1,
     ("UNSUITABLE_DATA", "data of 'ours' holds NaN or infinity in 1 of 40", "example 7")),
    (f"--in-process {SMALL} --partition given", 1,
     ("UNSUITABLE_DATA", "data 'synthetic' names none: add an array node_train")),
    (f"--in-process {SMALL} --dataset images:name=views --data-root {{here}}", 1,
     ("DATASET_UNAVAILABLE", "{here}/views/train is not there: expected {here}/views/train/C")),
)  # fmt: skip


class Silent(Protocol):
    """Some other program's server, which hangs up on what it does not understand."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]


@pytest.mark.slow
class BegunTests(TestCase):
    """Told by a run under way, in this process, or by a server."""

    timeout = 120

    def setUp(self) -> None:
        self.here = written(self)
        for name in ("http_proxy", "https_proxy"):  # no download gets anywhere
            self.patch(os, "environ", {**os.environ, name: "http://127.0.0.1:1"})
        other = Factory.forProtocol(Silent)
        port = reactor.listenTCP(0, other, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        self.places = {
            "here": str(self.here),
            "stranger": f"tcp://127.0.0.1:{port.getHost().port}",
            "plain": self.serve(),
            "keyed": self.serve(keys=ClusterKeys().server("alpha")),
            "small": self.serve(limits=Limits(nodes=2)),
        }
        self.registry = load(only=[], extra={"extra": Extra})

    def serve(self, keys: Keys | None = None, limits: Limits | None = None) -> str:
        config = ServerConfig(
            host="127.0.0.1", port=0, data_root=str(folder(self)), limits=limits or Limits()
        )
        server = ByzpyServer(reactor, config, keys=keys)
        server.startService()
        # What it runs on is worked out in the pool: let that end first.
        self.addCleanup(lambda: server.environment().addBoth(lambda _: server.stopService()))
        return str(server.address)

    async def attempt(self, words: str, registry: Registry) -> ByzpyTwError | None:
        """Return the error that ends the run of a command with `words`."""
        try:
            run = prepare_run(configuration(shlex.split(words)), registry)
        except ByzpyTwError as e:
            return e
        ended = await run_prepared(reactor, run, lambda line: None)
        result = json.loads((run.directory.path / "result.json").read_text())
        if ended.error is not None:
            self.assertEqual(result["error_code"], ended.error.code)
            self.assertEqual(ended.code, ended.error.exit_code)
        return ended.error

    async def test_begun(self) -> None:
        """Code, words, and exit code of each; result.json has the same code."""
        for number, (words, exit_code, expected) in enumerate(BEGUN):
            typed = words.format(**self.places)
            error = await self.attempt(f"{typed} --run-dir {self.here}/{number}", self.registry)
            assert error is not None, typed
            self.assertEqual(error.exit_code, exit_code, (typed, format_error(error)))
            for word in expected:
                self.assertIn(word.format(**self.places), format_error(error), typed)
