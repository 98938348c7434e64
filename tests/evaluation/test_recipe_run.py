"""A recipe on a real local Ray cluster: two stores, a prior a method, a sweep; Parquet equals Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from batch_helpers import MASK, PLAN, make_inputs, write_config
from kdrift.cli import main
from kdrift.evaluation.evaluate_config import load_evaluation
from kdrift.evaluation.table import shown, shown_columns
from kdrift.runs.config import to_dict
from test_report_page import check_alone

# MLflow and Ray call deprecated parts of their own dependencies
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.slow
def test_a_recipe_from_command_to_report(cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (make_inputs(tmp_path / name) for name in ("one", "two"))
    stated = {"where": "Table 9", "store": "brain", "mask": "two"}
    sampler = {**to_dict(PLAN), "num_samples": 2}
    values: dict[str, Any] = {
        "name": "tiny", "title": "A tiny recipe", "out": "unused", "per": "slice", "compare": "first",
        "stores": {"brain": {"store": one["store"], "volumes": ["large"]},
                   "knee": {"store": two["store"], "volumes": ["small"], "masks": ["two"]}},
        "masks": {"two": to_dict(MASK), "more": {"kind": "gaussian1d", "acceleration": 2.0, "acs_lines": 12}},
        "methods": {
            "first": {**sampler, "prior": one["prior"], "masks": ["two"]},
            "second": {**sampler, "prior": "brain-complex-small", "masks": ["two"]},
            "cg": {"method": "cg_sense"},
        },
        "sweep": {"key": "methods.settings.num_steps", "values": [2, 9], "label": "steps",
                  "entries": ["first", "second"]},
        "published": [{**stated, "method": "first", "value": 2, "psnr": [30.5, 1.5]},
                      {**stated, "other": "their <net>", "psnr": [31.0, None]}],
        "small": {"sweep.values": [2, 3]}, "pool": {"actors": 2},
    }  # fmt: skip
    path, out = write_config(tmp_path / "tiny.yaml", values), tmp_path / "out"
    command = ["evaluate", "--recipe", str(path), "--size", "small", "--out", str(out)]
    assert main(command) == 0
    assert "written:" in capsys.readouterr().out
    found = json.loads((out / "table.json").read_text())
    measured = [row for row in found["rows"] if row["data"] != "published"]
    places = [(row["store"], row["mask"], row["method"], row["value"]) for row in measured]
    assert places == [
        ("brain", "two", "first", 2), ("brain", "two", "first", 3), ("brain", "two", "second", 2),
        ("brain", "two", "second", 3), ("brain", "two", "cg", None), ("brain", "more", "cg", None),
        ("knee", "two", "first", 2), ("knee", "two", "first", 3), ("knee", "two", "second", 2),
        ("knee", "two", "second", 3), ("knee", "two", "cg", None),
    ]  # fmt: skip
    assert [row["slices"] for row in measured] == [3] * 6 + [2] * 5
    own = json.loads((out / "cells/brain/two/second-3/large/metrics.json").read_text())
    assert (own["config"]["prior"]["name"], own["nfe"]) == ("brain-complex-small", 3)
    own = json.loads((out / "cells/knee/two/first-2/small/metrics.json").read_text())
    assert (own["config"]["prior"]["name"], own["nfe"]) == ("prior", 2)
    assert set(own["by_slice"]) == {"0", "1"}
    assert found["rows"][places.index(("knee", "two", "first", 2)) + 1]["psnr_mean"] == pytest.approx(
        sum(each["psnr"] for each in own["by_slice"].values()) / 2
    )

    # Parquet says what Markdown shows, row by row and column by column
    config = load_evaluation(path, ["size=small"])
    rows = pyarrow.parquet.read_table(out / "table.parquet").to_pylist()
    lines = (out / "table.md").read_text().partition("\n## ")[0].splitlines()
    columns = shown_columns(rows, config)
    assert lines[0] == "| " + " | ".join(column.heading for column in columns) + " |"
    assert {"store", "steps", "PSNR dB, published", "stated in"} <= {column.heading for column in columns}
    for row, line in zip(rows, lines[2:], strict=False):
        assert line == "| " + " | ".join(shown(row, column.name) for column in columns) + " |"
    assert len(rows) == len(found["rows"]) == 12
    assert next(row for row in rows if row["data"] == "published")["method"] == "their <net>"
    observed = pyarrow.parquet.read_table(out / "observations.parquet")
    assert observed.num_rows == 6 * 3 + 5 * 2
    compared = pyarrow.parquet.read_table(out / "comparisons.parquet").to_pylist()
    assert {(row["store"], row["method"], row["value"]) for row in compared} == {
        (store, method, value) for store in ("brain", "knee") for method in ("second", "cg") for value in (2, 3)
    }

    page = (out / "report.html").read_text()
    check_alone(page)
    assert page.count('class="slice"') == 3
    assert page.count('class="mask"') == 3
    assert "their &lt;net&gt;" in page
    for part in ("results", "curves", "pictures", "distributions", "comparisons", "methods"):
        assert f'<section id="{part}">' in page
    assert "A small run, with these in place of the paper" in page

    # the same command does nothing again; another value of the sweep joins
    assert main(command) == 0
    assert "28 of 28 slices are done already" in capsys.readouterr().out
    assert main([*command, "--set", "sweep.values=[2,3,4]", "--set", "published=[]"]) == 0
    assert "28 of 38 slices are done already" in capsys.readouterr().out
    assert main(["evaluate", "--recipe", "hfs_tabel1", "--out", str(out)]) == 1
    assert "did you mean 'hfs_table1'" in capsys.readouterr().err
    assert main(["evaluate", "--recipe", "hfs_table1", "--config", "phantom"]) == 2
