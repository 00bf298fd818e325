"""What `accelerate launch harness/run.py GRID` starts: the `run` command."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder stands first on sys.path; modules in it must not be taken for top-level ones.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from harness.cli import entry

    entry(["run", *sys.argv[1:]])
