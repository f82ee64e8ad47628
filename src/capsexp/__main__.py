"""``python -m capsexp``."""

from capsexp.cli import entry

if __name__ == "__main__":
    entry()
