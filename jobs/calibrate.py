"""Calibrate as a Ray job: `ray job submit --working-dir . -- python jobs/calibrate.py --config X.yaml`."""

import sys

from kdrift.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
