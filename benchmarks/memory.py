"""The memory of a run on data that is mapped into memory, beside the same run on little data.

    python benchmarks/memory.py [--gib 4] [--folder DIR] [--rounds 20]

Writes arrays of that size to a temporary folder (``x_train.npy`` and so on, removed at the end),
and trains on them: ``--dataset arrays:name=NAME``, in process, ten nodes, with an evaluation.
Reads ``RssAnon`` and ``RssFile`` of the process a hundred times a second.  Anonymous memory is what
the system cannot give up without swap; pages of files it can.  Fails if the large data takes over
1 GiB of anonymous memory more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, CLASSES, CHUNK, SMALL = 1024, 10, 2**14, 2**12  # SMALL: examples of the small data
LIMIT_MIB = 1024


def write(folder: Path, examples: int) -> None:
    """Write training examples of float32, with a class each, and a few for testing."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    centres = draws.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    for part, count in (("train", examples), ("test", SMALL)):
        y = np.arange(count) % CLASSES
        np.save(folder / f"y_{part}.npy", y)
        with (folder / f"x_{part}.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, WIDTH)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, count, CHUNK):
                labels = y[start : start + CHUNK]
                noise = draws.standard_normal((len(labels), WIDTH), dtype=np.float32)
                file.write((noise + centres[labels]).tobytes())


def memory(pid: int) -> dict[str, float]:
    """MiB by kind, of a process that is there."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = [line.split() for line in lines if line.startswith("Rss")]
    return {kind[:-1]: int(kib) / 1024 for kind, kib, _ in found}


def train(root: Path, name: str, rounds: int) -> tuple[dict[str, float], float]:
    """Train on the arrays `name`; the peak of each kind of memory, and seconds."""
    command = [
        sys.executable, "-m", "byzpy_tw.train", "--in-process", "--dataset", f"arrays:name={name}",
        "--data-root", str(root), "--model", "mlp", "--num-honest", "9", "--num-byz", "1",
        "--f", "1", "--aggregator", "trimmed-mean", "--rounds", str(rounds),
        "--eval-interval", str(rounds), "--run-dir", str(root / f"run-{name}"),
    ]  # fmt: skip
    begun, peak = time.perf_counter(), dict.fromkeys(("RssAnon", "RssFile"), 0.0)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            try:
                found = memory(child.pid)
            except OSError:
                break  # it has just ended
            peak = {kind: max(most, found.get(kind, 0.0)) for kind, most in peak.items()}
            time.sleep(0.01)
    if child.returncode:
        raise SystemExit(f"the run on {name} failed: exit status {child.returncode}")
    return peak, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=4.0, help="of the large data")
    parser.add_argument("--folder", type=Path, help="where to write it; default: the system's")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    sizes = {"small": SMALL, "large": int(args.gib * 2**30) // (4 * WIDTH)}
    anonymous = {}
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="byzpy-tw-memory-") as made:
        print(f"{'data':8}{'MiB':>8}{'anonymous MiB':>16}{'of files MiB':>15}{'seconds':>10}")
        for name, examples in sizes.items():
            write(Path(made) / name, examples)
            peak, seconds = train(Path(made), name, args.rounds)
            anonymous[name] = peak["RssAnon"]
            print(
                f"{name:8}{examples * WIDTH * 4 / 2**20:8.0f}{peak['RssAnon']:16.0f}"
                f"{peak['RssFile']:15.0f}{seconds:10.1f}",
                flush=True,
            )
    more = anonymous["large"] - anonymous["small"]
    print(f"{more:.0f} MiB more anonymous memory, at most {LIMIT_MIB} expected")
    sys.exit(more > LIMIT_MIB)


if __name__ == "__main__":
    main()
