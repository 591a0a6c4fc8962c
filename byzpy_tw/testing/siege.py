"""The old name of ``tests.fuzzing``, which the repository has and the package has not."""

import sys

if __name__ == "__main__":
    print("this is python -m tests.fuzzing now, in a checkout of the repository", file=sys.stderr)
    sys.exit(2)
