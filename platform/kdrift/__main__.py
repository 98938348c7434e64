"""`python -m kdrift` is the `kdrift` command."""

import sys

from kdrift.cli import main

sys.exit(main())
