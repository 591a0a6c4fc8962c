"""The picture in the README: the table of a real sweep, as its page shows it.

    python scripts/sweep_picture.py [PNG]

Runs ``python -m byzpy_tw sweep`` with its default grid in a temporary folder (half a minute on
two cores), opens its page in Chromium, and writes a screenshot of the table to PNG (default:
docs/sweep.png).  Needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEFAULT = Path(__file__).resolve().parent.parent / "docs" / "sweep.png"
SIZE = (1000, 590)  # pixels of the window: the heading, the conclusions and the table


def main() -> int:
    """Run the sweep and draw it; return the exit code."""
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else DEFAULT).resolve()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("sweep_picture: this needs Chromium, and there is none on the PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "byzpy_tw", "sweep", "--out", folder]
        code = subprocess.run(command).returncode
        if code:
            return code
        screenshot = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--virtual-time-budget=3000", f"--window-size={SIZE[0]},{SIZE[1]}",
            f"--user-data-dir={folder}/chromium", f"--screenshot={picture}",
            f"file://{folder}/lab.html",
        ]  # fmt: skip
        subprocess.run(screenshot, check=True, capture_output=True, timeout=120)
    print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
