"""`python -m posttrain` is `posttrain`: what torchrun and its like start by a module's name."""

import sys

from posttrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
