"""python -m clear_ref COMMAND: the same as python -m clear_ref.run COMMAND."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
