"""Evaluate methods on one model and one benchmark: ``python eval.py --help``."""

import sys

from lit_simignore.cli import eval_main

if __name__ == "__main__":
    sys.exit(eval_main())
