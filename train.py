"""Train a model: ``python train.py --help``."""

import sys

from lit_simignore.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
