"""Start the command line by python -m heatvit."""

import sys

from heatvit.cli import main

sys.exit(main())
