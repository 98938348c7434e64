"""`--submit` on a real Ray cluster of its own: log and exit status, Ctrl-C, a killed driver that is resumed by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.local_cluster import LocalCluster, local_cluster

from batch_helpers import NUM_SLICES, PLAN, batch_values, check_against_reconstruct, make_inputs, write_config
from kdrift.cli import parse
from kdrift.evaluation.evaluate_config import load_evaluation
from kdrift.runs.config import to_dict
from kdrift.runs.submit import _check_paths, entrypoint, next_id, without

REPOSITORY = Path(__file__).resolve().parents[2]
SLOWER = replace(PLAN, settings={"num_steps": 25})


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with local_cluster([2]) as found:
        yield found


def kdrift(local: LocalCluster, *arguments: str) -> subprocess.Popen[str]:
    """Start a kdrift command from the root of the repository, as a user does."""
    command = [sys.executable, "-m", "kdrift", *arguments, "--submit", local.dashboard]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=local.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs are started ignoring it
    )  # fmt: skip


@pytest.mark.ray
def test_log_and_exit_status_come_back(local: LocalCluster, tmp_path: Path) -> None:
    make_inputs(tmp_path)
    again = ("convert", str(tmp_path / "small.h5"), "--store", str(tmp_path / "new.zarr"), "--quiet")
    first = kdrift(local, *again, "--job-name", "convert-it")
    second = kdrift(local, "convert", "--config", "/absent.yaml", "--job-name", "absent")
    printed = first.communicate(timeout=300)[0]
    assert first.returncode == 0, printed
    assert "job convert-it at http://127.0.0.1:" in printed
    assert "1 converted, 0 unchanged, 0 failed" in printed
    printed = second.communicate(timeout=300)[0]
    assert second.returncode == 1
    assert "kdrift: error: [Errno 2] No such file or directory: '/absent.yaml'" in printed
    assert "job absent failed: Job entrypoint command failed with exit code 1\n" in printed


@pytest.mark.slow
@pytest.mark.ray
def test_killed_driver_is_resumed_by_name(local: LocalCluster, tmp_path: Path) -> None:
    """Ctrl-C leaves the job; its name is taken while it runs; killed, it goes on where it was."""
    inputs, out = make_inputs(tmp_path), tmp_path / "out"
    values = batch_values(inputs, out, plan=to_dict(SLOWER), pool={"actors": 1})
    command = ("reconstruct", "--config", str(write_config(tmp_path / "batch.yaml", values)), "--job-name", "batch")
    first = kdrift(local, *command)
    await_slice(out, first)
    process = driver(out)
    os.kill(process, signal.SIGSTOP)  # so that it is in mid-work whatever this test takes
    first.send_signal(signal.SIGINT)
    printed = first.communicate(timeout=60)[0]
    assert first.returncode == 130
    assert f"follow it: ray job logs --follow --address {local.dashboard} batch" in printed
    taken = kdrift(local, *command)
    assert "error: job batch is running at" in taken.communicate(timeout=60)[0]
    assert taken.returncode == 1
    os.kill(process, signal.SIGKILL)
    done = num_done(out)
    assert 1 <= done < 5
    second = kdrift(local, *command)
    printed = second.communicate(timeout=300)[0]
    assert second.returncode == 0, printed
    assert "job batch-2 at" in printed
    assert f"{done} of 5 slices are done already" in printed
    assert f" 0 failed; {5 - done} slices in" in printed
    check_against_reconstruct(inputs, out, SLOWER)


def num_done(out: Path) -> int:
    """Slices that are done, those of finished volumes too."""
    finished = [NUM_SLICES[path.parent.name] for path in out.glob("*/batch.json")]
    return len(list(out.glob(".partial/*/[0-9]*.npz"))) + sum(finished)


def await_slice(out: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240
    while not num_done(out):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def driver(out: Path) -> int:
    """Return the process of the job's driver."""
    import psutil

    words = {"jobs/reconstruct.py", str(out.parent / "batch.yaml")}
    found = [p.pid for p in psutil.process_iter(["cmdline"]) if words <= set(p.info["cmdline"] or [])]
    assert len(found) == 1
    return found[0]


def test_a_name_is_used_again_only_after_its_job_has_ended() -> None:
    assert next_id("a", {}, "C") == "a"
    assert next_id("a", {"a": "FAILED", "a-b": "RUNNING", "ab": "RUNNING"}, "C") == "a-2"
    assert next_id("a", {"a": "FAILED", "a-7": "STOPPED"}, "C") == "a-8"
    with pytest.raises(
        ValueError, match="job a-2 is pending at C: follow it with ray job logs --follow --address C a-2"
    ):
        next_id("a", {"a": "SUCCEEDED", "a-2": "PENDING"}, "C")


def options(*words: str) -> Any:
    """The options of a command."""
    parsed = parse(words)
    assert parsed is not None
    return parsed.options


def test_results_in_the_jobs_own_folder_are_refused(tmp_path: Path) -> None:
    def check(verb: str, *words: str) -> None:
        _check_paths(verb, options(verb, *words))

    check("convert", "x.h5", "--store", "s3://bucket/x.zarr")
    check("train", "--config", "absent.yaml", "--out", "/shared/run")
    with pytest.raises(ValueError, match=r"store is x\.zarr: a job needs an absolute path that all nodes share"):
        check("convert", "x.h5", "--store", "x.zarr")
    with pytest.raises(ValueError, match="a job needs --out"):
        check("train", "--config", "absent.yaml")
    with pytest.raises(ValueError, match="out is runs/reconstruct/phantom"):
        check("reconstruct", "--config", "phantom")
    config = write_config(tmp_path / "b.yaml", {"out": "runs/x", "store": "/s.zarr"})
    with pytest.raises(ValueError, match="out is runs/x"):
        check("reconstruct", "--config", str(config))
    check("reconstruct", "--config", str(config), "--set", "out=/shared/x")


def test_a_configuration_that_is_meant_by_name_travels_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "--config", "tiny", "--out", "/shared/x", "--submit", "h:1", "--job-name=j", "--set", "seed=1"]
    rest = without(words, ("--submit", "--job-name"))
    assert rest == ["train", "--config", "tiny", "--out", "/shared/x", "--set", "seed=1"]
    monkeypatch.chdir(tmp_path)
    shell = entrypoint("j-2", options(*words), rest)
    program = "python -m kdrift train --out /shared/x --set seed=1 --config j-2.tiny.yaml"
    assert shell.endswith(f" > j-2.tiny.yaml && {program}")
    subprocess.run(shell.removesuffix(f" && {program}"), shell=True, check=True)
    assert (tmp_path / "j-2.tiny.yaml").read_text() == (REPOSITORY / "configs/train/tiny.yaml").read_text()
    by_path = ["train", "--config", "mine.yaml", "--out", "/shared/x"]
    assert entrypoint("j", options(*by_path), by_path) == "python -m kdrift train --config mine.yaml --out /shared/x"


def test_a_recipe_travels_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the configuration that it is: the job reads the same, and its size and sources stay as they were given."""
    words = ["evaluate", "--recipe", "hfs_table1", "--size", "small", "--out", "/shared/x", "--submit", "http://a:1"]
    rest = without(words, ("--submit", "--job-name"))
    monkeypatch.chdir(tmp_path)
    shell = entrypoint("j", options(*words), rest)
    program = "python -m kdrift evaluate --size small --out /shared/x --config j.hfs_table1.yaml"
    assert shell.endswith(f" > j.hfs_table1.yaml && {program}")
    subprocess.run(shell.removesuffix(f" && {program}"), shell=True, check=True)
    sent = load_evaluation(tmp_path / "j.hfs_table1.yaml", ["size=small"])
    assert sent == load_evaluation(REPOSITORY / "configs/recipes/hfs_table1.yaml", ["size=small"])
