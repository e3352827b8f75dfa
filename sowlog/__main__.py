"""`python -m sowlog`, and `--help` for all of it."""

import sys

from sowlog._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
