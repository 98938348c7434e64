"""Train a prior as a Ray job: `ray job submit -- python jobs/train.py --config X.yaml --out SHARED`."""

import sys

from kdrift.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
