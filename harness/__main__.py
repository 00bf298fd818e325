"""`python -m harness`: the `harness` command."""

from harness.cli import entry

if __name__ == "__main__":
    entry()
