"""The runs of `same_bits.py` in one tree: a process that forks for each.

    PYTHONPATH=TREE python -P scripts/runs_of_a_tree.py TREE FOLDER

It writes a line of JSON with the names that the tree's registry knows, and its options.  For
each line of input, a `Run`, it writes one with its `Outcome`.  It imports torch once and each
fork has it; a fork is a process with a reactor of its own, as a command's is.  Nothing of the tree
is used but its command lines and the records of its runs, so that it may be an old one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import asdict, define, field, frozen

LIMIT = 90.0  # seconds for one command line
PRELOADED = ("torch", "byzpy_tw.__main__", "byzpy_tw.train")
RUNNERS = (
    "byzpy_tw.trainer.run",
    "byzpy_tw.trainer.program",
)  # today's name, and that of older trees


@frozen
class Run:
    """Command lines of one run: the first begins it, each other resumes it.

    With `kill`, its first "trainer" or one "server" is killed once `after` rounds are recorded.
    """

    lines: tuple[str, ...]
    servers: int = 0  # 0: the nodes are in the trainer's process
    kill: str = ""
    after: int = 30


@frozen
class Outcome:
    """A run's exit code, its parameters' hash after each round, and its last error line."""

    code: int
    hashes: list[str]
    error: str = ""


def drive(tree: Path, folder: Path) -> None:
    """Write the names that `tree` knows, then the outcome of each run that is asked for."""
    for module in PRELOADED:
        importlib.import_module(module)
    runner = next(name for name in RUNNERS if importlib.util.find_spec(name))
    importlib.import_module(runner)
    import byzpy_tw

    if not Path(byzpy_tw.__file__).is_relative_to(tree):
        raise SystemExit(f"byzpy_tw comes from {byzpy_tw.__file__}, not from {tree}")
    if "twisted.internet.reactor" in sys.modules:
        raise SystemExit("importing byzpy_tw makes a reactor: runs would share it")
    os.chdir(folder)
    known = {**names(folder / "names"), "option": options(folder / "options")}
    print(json.dumps(known), flush=True)
    servers = Servers(folder)
    try:
        for i, line in enumerate(sys.stdin):
            outcome = outcome_of(Run(**json.loads(line)), folder / str(i), servers)
            print(json.dumps(asdict(outcome)), flush=True)
    finally:
        servers.stop()


def names(output: Path) -> dict[str, list[str]]:
    """The names of the tree's registry, by kind."""
    code = wait(command("byzpy_tw.__main__", ["plugins", "--json"], output))
    text = output.read_text()
    if code != 0:
        raise SystemExit(text)
    found: dict[str, list[str]] = {}
    for row in json.loads(text[text.index("[\n") :]):  # warnings may come first
        found.setdefault(row["kind"], []).append(row["name"])
    return found


def options(output: Path) -> list[str]:
    """The tree's options of a run."""
    code = wait(command("byzpy_tw.train", ["--help"], output))
    text = output.read_text()
    if code != 0:
        raise SystemExit(text)
    return re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE)


def command(module: str, words: Sequence[str], output: Path) -> int:
    """Start ``module.main(words)`` in a fork of this process; its process number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for source, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        code = importlib.import_module(module).main(list(words))
        sys.stdout.flush()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(number: int, meanwhile: Callable[[], None] = lambda: None) -> int:
    """Wait for a child's exit code; minus the signal's number where one ended it."""
    end = time.monotonic() + LIMIT
    while True:
        gone, status = os.waitpid(number, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(number, signal.SIGKILL)
        meanwhile()
        time.sleep(0.005)


def outcome_of(wanted: Run, folder: Path, servers: Servers) -> Outcome:
    """Make the run that is `wanted`, with its records in `folder`."""
    folder.mkdir()
    run, output = folder / "run", folder / "output"
    where = ["--in-process"]
    if wanted.servers:
        where = ["--remote-hosts", ",".join(servers.addresses(wanted.servers))]
    first, *others = wanted.lines
    words, killed = [*first.split(), *where, "--run-dir", str(run)], False

    def kill() -> None:
        nonlocal killed
        if wanted.kill and not killed and len(hashes_in(run)) >= wanted.after:
            os.kill(number if wanted.kill == "trainer" else servers.last(), signal.SIGKILL)
            killed = True

    number = command("byzpy_tw.train", words, output)
    code = wait(number, kill)
    if wanted.kill:
        servers.stop()
        if not killed or (wanted.kill == "trainer" and code != -signal.SIGKILL):
            return Outcome(1, [], f"it was over before its {wanted.kill} was killed")
    for line in others:
        if code == 0 or killed:
            again = ["--resume", str(run), *line.split()]
            code = wait(command("byzpy_tw.train", again, output))
    said = output.read_text(errors="replace").splitlines()
    errors = [line for line in said if "error" in line.lower()]
    if code == -signal.SIGKILL:
        errors.append(f"it was stopped after {LIMIT:g} s")
    return Outcome(code, hashes_in(run), "".join(errors[-1:]))


def hashes_in(run: Path) -> list[str]:
    """The hashes that the run in `run` has recorded so far."""
    found: dict[int, str] = {}
    try:
        lines = (run / "rounds.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    for line in lines:
        record = json.loads(line)
        found[record["round"]] = record["parameters_sha256"]
    return [found[i] for i in sorted(found)]


@define
class Servers:
    """A few servers of this tree, started when they are first wanted."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(factory=list)
    logs: list[Path] = field(factory=list)

    def addresses(self, count: int) -> list[str]:
        """Where `count` servers listen."""
        twistd = [sys.executable, "-P", "-c", "from twisted.scripts.twistd import run; run()"]
        options = "-n --pidfile= --logfile=- byzpy-server --host 127.0.0.1 --port 0 --until-eof"
        while len(self.started) < count:
            self.logs.append(self.folder / f"server-{len(os.listdir(self.folder))}.log")
            with self.logs[-1].open("wb") as log:
                self.started.append(
                    subprocess.Popen(
                        [*twistd, *options.split()], stdin=subprocess.PIPE, stdout=log, stderr=log
                    )
                )
        return [self._address(log) for log in self.logs[:count]]

    def _address(self, log: Path) -> str:
        for _ in range(int(LIMIT / 0.05)):
            found = re.search(r"listening on (tcp://[^\s,]+)", log.read_text(errors="replace"))
            if found:
                return found.group(1)
            time.sleep(0.05)
        raise SystemExit(f"a server did not listen: {log.read_text(errors='replace')}")

    def last(self) -> int:
        """The process number of the server that was started last."""
        return self.started[-1].pid

    def stop(self) -> None:
        """Stop all; the next that are wanted are new ones."""
        for server in self.started:
            server.terminate()
            server.wait()
        self.started, self.logs = [], []


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]))
