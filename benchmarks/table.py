"""Rows of benchmarks as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]


def show(rows: Iterable[Row]) -> None:
    """Print rows as a Markdown table: value against baseline, their ratio, the target."""
    print("| what | value | baseline | ratio | target | command |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        value = f"{_number(row['value'])} {row['unit']}"
        cells = [
            row["name"],
            value,
            _number(row["baseline"]),
            _number(row["ratio"]),
            row["target"],
            row["command"],
        ]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def machine() -> dict[str, Any]:
    """Hardware and versions that the figures belong to."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(run: Callable[[bool], list[Row]], description: str) -> None:
    """Command line of one benchmark: `--quick`, and `--json FILE` for the rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    arguments = parser.parse_args()
    rows = run(arguments.quick)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
