"""An upgrade of the service while work runs: an older kdrift, whose tables are older too, and the present one."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from conftest import REPOSITORY
from kdrift_serve.schema import SCHEMA
from serve_helpers import KEY, MASK, assert_same, library, phantom_file, plan, running, start, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
MIGRATIONS = "serve/kdrift_serve/_migrations/versions"


def older(folder: Path) -> Path:
    """Check the last kdrift out whose tables are of another version."""
    newest = next((REPOSITORY / MIGRATIONS).glob(f"{SCHEMA}_*.py"))
    git = ["git", "-C", str(REPOSITORY)]
    said = subprocess.run(
        [*git, "log", "--diff-filter=A", "--format=%H", "--", f"{MIGRATIONS}/{newest.name}"],
        capture_output=True,
        text=True,
    )
    if said.returncode or not said.stdout.strip():
        pytest.skip("the history of the repository is not here: there is no older kdrift to start from")
    archive = folder / "older.tar"
    commit = said.stdout.split()[-1]
    made = subprocess.run([*git, "archive", "-o", str(archive), f"{commit}~1", "platform", "serve", "configs"])
    if made.returncode:
        pytest.skip("the history of the repository is cut off: there is no older kdrift to start from")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "older", filter="data")
    assert not (folder / "older" / MIGRATIONS / newest.name).exists()
    return folder / "older"


def test_an_upgrade_goes_on_with_what_waits_and_runs(tmp_path: Path) -> None:
    """Side by side neither takes the other's jobs; when the old one is told to stop, the new one has them."""
    prior, volume = tiny_prior(tmp_path / "tiny"), phantom_file(tmp_path / "volume.h5", 3)
    args = {"priors": {"tiny": str(prior)}, "storage": str(tmp_path / "store"), "samplers": {"device": "cpu"}}
    long = plan(num_samples=8, settings={"num_steps": 120})
    old = start(tmp_path / "first", args, key=KEY, source=older(tmp_path))
    try:
        with running(tmp_path / "second", args, key=KEY) as new:
            started = old.accepted(volume, plan=long, mask=MASK)
            waiting = old.accepted(volume, plan=plan(), mask=MASK)
            old.wait(started, lambda status: (status["progress"] or {}).get("slices_done") == 1)
            quick = new.accepted(volume, plan=plan(), mask=MASK)
            assert_same(new.result(quick), library(volume, prior, plan()))
            assert old.status(quick)["state"] == "done", "the old one reads the table of the new one"
            assert new.status(waiting)["state"] == "queued", "it is the old one's"
            assert old.stop() == 0
            # the older kdrift's finished slice has its noise, whose last bits were others
            assert_same(new.result(started), library(volume, prior, long), within=1e-4)
            assert_same(new.result(waiting), library(volume, prior, plan()))
            assert new.status(started)["report"]["slices"] == [0, 1, 2]
    finally:
        if old.process.poll() is None:
            old.stop()
