"""A study of 108 runs that is killed twice, extended by a rule, and run on two servers again.

    python benchmarks/study.py                         3 rules x 3 attacks x 2 f x 2 partitions x
                                                       3 seeds on mnist5k, 10 rounds each
    python benchmarks/study.py --rounds 3 --seeds 1    the same of 36 runs

Each step is a command of its own, as a user would type it.  The exit code is 0 if the sweep went on
after both kills, ran only what was new of the extended study, and wrote the same tables on servers
to the last digit, but for columns of time and place.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

STUDY = """[nodes]
num-honest = 10
num-byz = [1, 3]
attack = ["sign-flip", "ipm", "alie:tau=1.5"]
[data]
dataset = "mnist5k"
partition = ["iid", "gamma:gamma=0.5"]
[training]
model = "logreg"
rounds = {rounds}
batch-size = 32
[aggregation]
f = [1, 3]
aggregator = ["mean", "trimmed-mean", "geometric-median"{more}]
[running]
eval-interval = 5
[sweep]
paired = [["f", "num-byz"]]
repetitions = {seeds}
"""
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
READY = re.compile(r"byzpy-server \d+ listening on (tcp://\S+?),")
APART = {"folder", "seconds"}  # columns of place and time
PATIENCE = 3600


def sweep(study: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Begin the sweep of `study`."""
    command = [sys.executable, "-m", "byzpy_tw", "sweep", str(study), "--out", str(out), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def complete(process: subprocess.Popen[str]) -> str:
    """Wait for a sweep's end; return what it said."""
    said, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise SystemExit(f"a sweep ended with exit code {process.returncode}:\n{said}")
    return said


def finished(out: Path) -> int:
    return len(list(out.glob("cells/*/result.json")))


def kill_after(process: subprocess.Popen[str], out: Path, runs: int) -> int:
    """Kill a sweep with SIGKILL once `runs` are finished; return how many are."""
    while finished(out) < runs:
        if process.poll() is not None:
            raise SystemExit(f"the sweep ended before it was killed:\n{process.communicate()[0]}")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return finished(out)


def start_servers(stack: ExitStack, count: int) -> list[str]:
    addresses = []
    for _ in range(count):
        words = ["-n", "--pidfile=", "--logfile=-", "byzpy-server", "--host", "127.0.0.1",
                 "--port", "0", "--max-runs", "8"]  # fmt: skip
        server = subprocess.Popen([*TWISTD, *words], stdout=subprocess.PIPE, text=True)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        found = next(filter(None, map(READY.search, server.stdout)))
        addresses.append(found.group(1))
    return addresses


def table(out: Path, name: str) -> list[dict[str, str]]:
    with open(out / f"{name}.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in APART} for row in csv.DictReader(file)]


def check(right: bool, words: str) -> None:
    print(f"{'ok' if right else 'WRONG'}: {words}", flush=True)
    if not right:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    total, new = 36 * chosen.seeds, 12 * chosen.seeds
    with tempfile.TemporaryDirectory(prefix="byzpy_tw-") as folder, ExitStack() as stack:
        here, there, study, more = (Path(folder, n) for n in ("here", "there", "s.toml", "m.toml"))
        size = {"rounds": chosen.rounds, "seeds": chosen.seeds}
        study.write_text(STUDY.format(more="", **size))
        more.write_text(STUDY.format(more=', "median"', **size))
        began, done = time.monotonic(), 0
        for part in (1, 2):
            done = kill_after(sweep(study, here), here, part * total // 3)
            check(done < total, f"killed with SIGKILL after {done} of {total} runs")
        said = complete(sweep(study, here))
        check(f"{done} finished before" in said, f"the next call went on after {done} runs")
        check(finished(here) == total, f"all {total} runs are finished")
        print(f"{time.monotonic() - began:.0f} s in all for {total} runs", flush=True)
        before = {p: p.stat().st_mtime_ns for p in here.glob("cells/*/result.json")}
        said = complete(sweep(more, here))
        check(f"{total} finished before" in said, f"with one rule more, {total} were there")
        kept = all(path.stat().st_mtime_ns == at for path, at in before.items())
        check(kept and finished(here) == total + new, f"only {new} new ones were run")
        hosts = ",".join(start_servers(stack, 2))
        began = time.monotonic()
        complete(sweep(more, there, "--remote-hosts", hosts))
        print(f"{time.monotonic() - began:.0f} s on two servers", flush=True)
        for name in ("results", "evaluations"):
            rows, others = table(here, name), table(there, name)
            check(rows == others, f"{name}.csv has the same {len(rows)} rows on servers")


if __name__ == "__main__":
    main()
