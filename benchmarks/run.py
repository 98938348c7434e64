"""`make bench`: every benchmark in turn, one table and one JSON file.

Ratios are measured in one run with both sides warmed up and equal threads; close other programs first.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path

from benchmarks.table import Row, machine, show

MODULES = (
    "bench_operators",
    "bench_espirit",
    "bench_data",
    "bench_network",
    "bench_sampler",
    "bench_training",
    "bench_scaling",
    "bench_serve",
)
OUTPUT = Path("runs/bench.json")


def run_all(quick: bool) -> int:
    """Run all modules; a failing one is named, the others go on, and the exit status is 1."""
    rows: list[Row] = []
    failed = []
    for name in MODULES:
        print(f"# {name}", flush=True)
        try:
            measured = importlib.import_module(f"benchmarks.{name}").run(quick)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        show(measured)
        rows += measured
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(json.dumps({"machine": machine(), "quick": quick, "rows": rows}, indent=2) + "\n")
    print(f"\n# all, written to {OUTPUT}")
    show(rows)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_all("--quick" in sys.argv))
