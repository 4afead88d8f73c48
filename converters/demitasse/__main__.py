"""Lets `python -m demitasse` do what the command `demitasse` does."""

import sys

from demitasse.cli import main

sys.exit(main())
