"""A knee volume on its road: its commands parse, and (slow) two slices go it to the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import knee_volume

from kdrift.cli import parse
from kdrift.runs.config_names import find_config
from test_docs import CONFIGS


def test_every_command_parses_and_its_configuration_is_valid(tmp_path: Path) -> None:
    verbs = []
    for command in knee_volume.steps(tmp_path).values():
        if command[1:3] != ["-m", "kdrift"]:
            continue
        parsed = parse(command[3:])
        assert parsed is not None
        verbs.append(parsed.verb)
        if parsed.options.config:
            CONFIGS[parsed.verb](find_config(parsed.verb, parsed.options.config), parsed.options.set)
    assert verbs == ["convert", "convert", "train", "reconstruct"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_two_slices(tmp_path: Path) -> None:
    """No step reads the file or its store twice: what is read beside them are modules, of each process."""
    assert knee_volume.main(["--slices", "2", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "k.json")]) == 0
    found = json.loads((tmp_path / "k.json").read_text())
    assert found["stored"]["images"] < 2 * 320 * 320 * 4 + 20_000
    assert all(row["seconds"] > 0 and row["peak_mb"] > 10 and row["read_mb"] > 1 for row in found["steps"])
    assert {plan["saturates"] for plan in found["plans"].values()} <= {"GPUs", "storage", "CPUs that load"}
    assert (tmp_path / "out" / "batch" / "knee" / "metrics.json").is_file()
    assert (tmp_path / "out" / "train" / "prior" / "model.safetensors").is_file()
