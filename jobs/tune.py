"""Tune a method as a Ray job: `ray job submit -- python jobs/tune.py --config X.yaml --out SHARED --resume`."""

import sys

from kdrift.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
