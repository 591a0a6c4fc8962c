"""``python -m byzpy_tw.train``: one run, over servers or in this process (see `cli.train`)."""

import sys

from byzpy_tw.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
