"""JSON files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(values, indent=1))
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file, {} where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}
