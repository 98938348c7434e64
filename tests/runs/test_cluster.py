"""Beside a real `ray start --head` every verb works on a private Ray and says so; with `--address` it joins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.local_cluster import LocalCluster, free_ports, local_cluster

from batch_helpers import MASK, batch_values, make_inputs, write_config
from kdrift.runs.cluster import own_cpus, ray_session
from kdrift.runs.config import to_dict
from training_helpers import tiny_config, write_images

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with local_cluster([3], object_store_bytes=80 * 2**20) as found:
        yield found


def kdrift(local: LocalCluster, *arguments: str, **environment: str) -> str:
    """Run a kdrift command to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "kdrift", *arguments], cwd=REPOSITORY, env=local.environment | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_every_verb_beside_a_running_cluster(local: LocalCluster, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    small = {"volumes": ["small"], "slices": [0, 1], "pool": {"actors": 1}}
    batch = write_config(tmp_path / "batch.yaml", batch_values(inputs, tmp_path / "batch", **small))
    values = batch_values(inputs, tmp_path / "evaluate", **small)
    values |= {"methods": {"a": values.pop("plan")}, "masks": {"eq2": values.pop("mask")}}
    evaluate = write_config(tmp_path / "evaluate.yaml", values)
    search = {
        "name": "tiny", "method": "annealed", "space": {"prior_sigma": {"low": 0.1, "high": 1.0}},
        "settings": {"num_steps": 3}, "prior": inputs["prior"], "num_samples": 1, "num_trials": 2,
        "data": {"sources": [str(tmp_path / "small.h5")], "mask": to_dict(MASK), "slices_per_volume": 1},
    }  # fmt: skip
    tune = write_config(tmp_path / "tune.yaml", search)
    training = to_dict(tiny_config(write_images(tmp_path / "images.npz")))
    train = write_config(tmp_path / "train.yaml", training)
    verbs = [
        ("convert", str(tmp_path / "small.h5"), "--store", str(tmp_path / "new.zarr"), "--workers", "1"),
        ("reconstruct", "--config", str(batch)),
        ("tune", "--config", str(tune), "--out", str(tmp_path / "tune")),
        ("train", "--config", str(train), "--out", str(tmp_path / "train")),
        ("evaluate", "--config", str(evaluate)),
    ]
    for verb in verbs:
        assert which_ray(kdrift(local, *verb)).startswith("Ray: private, ")
    again, joined = (*verbs[0], "--overwrite"), f"Ray: cluster at {local.address}, 3 CPUs"
    assert which_ray(kdrift(local, *again, "--address", local.address)).startswith(joined)
    assert which_ray(kdrift(local, *again, RAY_ADDRESS=local.address)).startswith(joined)
    assert served(local, tmp_path).startswith("Ray: private, 1 CPU")


def which_ray(printed: str) -> str:
    found = [line for line in printed.splitlines() if line.startswith("Ray: ")]
    assert len(found) == 1, printed
    return found[0]


def served(local: LocalCluster, folder: Path) -> str:
    """Start the service, stop it once it answers, and return the line that says which Ray it had."""
    command = [
        sys.executable,
        "-m",
        "kdrift",
        "serve",
        "--port",
        str(free_ports(1)[0]),
        "--storage",
        str(folder / "jobs"),
    ]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=local.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    printed = ""
    while "serving at" not in printed and (line := process.stdout.readline()):
        printed += line
    process.send_signal(signal.SIGTERM)
    printed += process.communicate(timeout=60)[0]
    assert process.returncode == 0, printed
    assert "serving at" in printed
    return which_ray(printed)


def test_an_address_that_is_none_is_named() -> None:
    def connect(address: str) -> None:
        with ray_session(address, echo=print):
            pass

    with pytest.raises(ValueError, match=r"http://head:8265 is a dashboard, which takes jobs \(--submit\)"):
        connect("http://head:8265")


def test_a_private_ray_has_no_more_cpus_than_the_machine() -> None:
    cpus = os.cpu_count() or 1
    assert [own_cpus(wanted) for wanted in (None, 1, 10_000)] == [None, 1, cpus]


def test_a_machine_too_busy_for_a_private_ray_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(OSError, match="the machine is busy; try again"), ray_session("local", echo=print):
        pass
