"""`python -m crossmodal`."""

import sys

from crossmodal.cli import main

__all__ = ["main"]

if __name__ == "__main__":  # processes that are begun anew import this
    sys.exit(main())
