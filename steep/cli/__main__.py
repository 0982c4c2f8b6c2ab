"""`python -m steep.cli`, for where the `steep` script is not on the path."""

import sys

from steep.cli.entry import main

sys.exit(main())
