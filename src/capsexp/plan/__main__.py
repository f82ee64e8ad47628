"""``python -m capsexp.plan`` with the arguments of ``python -m capsexp``: what that command would do, not doing it."""

import sys

from capsexp import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:], preview=True))
