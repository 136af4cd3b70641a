"""`python -m kvae` runs the `kvae` command."""

import sys

from kvae.cli import main

sys.exit(main())
