"""The recorded command names no folder of the machine, no user and no key."""

from __future__ import annotations

import sys

import pytest

from kdrift.runs.command_line import command_line


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (["/usr/local/bin/kdrift", "train", "--config", "configs/train/tiny.yaml"],
         "kdrift train --config configs/train/tiny.yaml"),
        (["/x/kdrift/__main__.py", "train", "--out", "/home/me/runs/a/"], "python -m kdrift train --out a"),
        (["/x/jobs/train.py", "--out=/shared/a b/c"], "python train.py --out=c"),
        (["kdrift", "--set", "data.stores=[/home/me/a.zarr, ~/b.zarr, ../c.npz, s3://bucket/d.zarr]"],
         "kdrift --set 'data.stores=[a.zarr, b.zarr, c.npz, d.zarr]'"),
        (["kdrift", "--tracking-uri", "https://me:secret@mlflow.example"], "kdrift --tracking-uri mlflow.example"),
        (["kdrift", "--set", "data.stores=[https://x.org/a.zarr?key=secret]"], "kdrift --set 'data.stores=[a.zarr]'"),
        (["kdrift", "--set", "seed=3"], "kdrift --set seed=3"),
    ],
)  # fmt: skip
def test_command_line(given: list[str], recorded: str) -> None:
    assert command_line(given) == recorded


def test_it_is_this_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/kdrift", "train", "--workers", "2"])
    assert command_line() == "kdrift train --workers 2"
