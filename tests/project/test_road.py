"""The road: its commands parse and their configurations are valid, and (slow) it is gone to the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import road

from kdrift.cli import parse
from test_docs import CONFIGS
from test_tour import ray_processes

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_job_parses_and_its_configuration_is_valid(tmp_path: Path) -> None:
    verbs = []
    for _, command in road.jobs(tmp_path, 100):
        parsed = parse([*command, "--submit", "http://127.0.0.1:1", "--job-name", "x"])
        assert parsed is not None
        assert (parsed.submit, parsed.job_name) == ("http://127.0.0.1:1", "x")
        verbs.append(parsed.verb)
        if parsed.options.config:
            CONFIGS[parsed.verb](REPOSITORY / parsed.options.config, parsed.options.set)
    assert verbs == ["convert", "convert", "train", "tune", "reconstruct", "evaluate"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_road_by_submitted_jobs_alone(tmp_path: Path) -> None:
    before = ray_processes()
    command = [sys.executable, "-m", "benchmarks.road", "--out", str(tmp_path / "road"), "--images", "80"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not ray_processes() - before
    for said in (
        "2 worker(s)",
        "4/4 trials",
        "2 volumes written, 0 failed",
        "| gaussian6 | annealed | simulated | 2 |",
    ):
        assert said in done.stdout
    assert "std: batch job and service differ by" in done.stdout
