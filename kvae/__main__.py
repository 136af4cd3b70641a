"""`python -m kvae` is `kvae`."""

import sys

from kvae.cli import main

sys.exit(main())
