"""Convert scans to a store as a Ray job: `ray job submit --working-dir . -- python jobs/convert.py --config X.yaml`."""

import sys

from kdrift.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
