"""``python -m fmzoo``: the `fmzoo` command."""

import sys

from fmzoo.cli import main

sys.exit(main())
