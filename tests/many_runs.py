"""Several runs in one process, so that tests need not import torch for each.

``python -m tests.many_runs FOLDER``: a JSON list of option lists comes on
standard input; a JSON object of each run's result goes to standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.task import react

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.cli.run import train
from byzpy_tw.cli.train import _WARM_MODULES, configuration
from byzpy_tw.plugins import load
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.records.resume import new_resume_point
from byzpy_tw.trainer.run import PreparedRun


async def main(
    reactor: Any, folder: str, asked: Sequence[Sequence[str]], launcher: Launcher
) -> None:
    registry = load()
    for i, options in enumerate(asked):
        config = configuration(options)
        path = Path(folder) / str(i)
        directory = RunDirectory.create(path)
        rules = resolve_rules(config, registry)
        run = PreparedRun(config, registry, rules, directory, new_resume_point())
        code = await train(reactor, run, lambda _: None, launcher=launcher)
        result = json.loads((path / "result.json").read_text())
        rounds = [json.loads(line) for line in (path / "rounds.jsonl").open()]
        print(json.dumps({"code": code, "result": result, "rounds": rounds}), flush=True)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    local = any("--local" in options for options in asked)
    launcher = Launcher.fork(*_WARM_MODULES) if local else Launcher()
    react(main, [*sys.argv[1:], asked, launcher])
