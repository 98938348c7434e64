"""The papers' claims and the comparison of all methods: what they run exists, and how rows are judged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.claim_runs import CLAIMS, Row
from benchmarks.claims import reported
from benchmarks.held_out import Measured
from benchmarks.quality_seconds import BEST, CLASSICAL, LINES, averaged, draw, table

from kdrift.methods import METHODS
from kdrift.recon.plan import Plan
from recon_helpers import resolve


def _row(label: str, psnr: float, detail: str = "", **values: float) -> Row:
    return Row(label, 4.0, psnr, 0.9, 10, values.get("seconds", 1.0), values.get("std", 0.0), detail)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_run_of_a_claim_can_be_resolved(name: str) -> None:
    labels = [run.label for run in CLAIMS[name].runs]
    assert len(set(labels)) == len(labels)
    for run in CLAIMS[name].runs:
        resolve(run.plan)


def test_the_comparison_has_every_method() -> None:
    with_prior = {name for name, method in METHODS.items() if method.samples}
    assert {line.method for line in LINES} == with_prior - {"score_mri_real"}  # for images without phase
    for line in (*LINES, *BEST):
        resolve(Plan(line.method, line.preset, {**line.settings, "num_steps": line.steps[0]}), line.prior)


def test_claims_are_judged_by_their_rows() -> None:
    few = CLAIMS["hfs_few_steps"]
    rows = {run.label: _row(run.label, 20.0 + (run.label == "HFS-SDE, N = 100")) for run in few.runs}
    assert few.holds(rows)
    rows["VE, N = 1000"] = _row("VE, N = 1000", 25.0)
    assert not few.holds(rows)
    rows["VE, N = 1000"] = _row("VE, N = 1000", float("nan"), "diverged")
    assert few.holds(rows)
    rows["HFS-SDE, N = 100"] = _row("HFS-SDE, N = 100", float("nan"), "diverged")
    assert not few.holds(rows)
    spread = CLAIMS["spread"]
    growing = {run.label: _row(run.label, 30.0, std=position) for position, run in enumerate(spread.runs)}
    assert spread.holds(growing)
    assert not spread.holds(dict(reversed(growing.items())))


def test_a_section_has_every_row_and_others_stay(tmp_path: Path) -> None:
    rows = [asdict(_row("RED-diff", 30.123)), asdict(_row("CSGM-Langevin, paper", float("nan"), "the sample diverged"))]
    answer = {
        "source": "S",
        "sentence": "says",
        "measured": {"date": "2026-01-01", "kdrift": "0.1.0", "torch": "2.13.0", "processor": "P"},
        "groups": {"real": {"held": False, "held_on": 0, "scans": 1, "rows": rows}},
    }
    (tmp_path / "red_diff.json").write_text(json.dumps(answer))
    page = "head\n<!-- generated -->\n\n### red_diff\n\nold\n\n### spread\n\nkept\n"
    text = reported(page, tmp_path)
    assert text.startswith("head\n<!-- generated -->\n\n### red_diff\n\nsays")
    assert "\nold\n" not in text
    assert text.endswith("\n### spread\n\nkept\n")
    assert "**real: did not hold in the mean, held on 0 of 1.**" in text
    assert "| real (1) | RED-diff | 4.00x | 30.12 |  | 0.900 | 10 | 1.0 | 100 | 0.0000 |" in text
    assert "diverged" in text


def test_plot_and_table_of_measured_points(tmp_path: Path) -> None:
    def point(label: str, steps: int, psnr: float, scan: str) -> Measured:
        config = {"options": {"num_steps": steps}}
        return Measured(label, scan, "simulated", 4.0, psnr, 0.9, steps, 0.1 * steps, 700, 0.01, config)

    found = [point("annealed", steps, 20 + steps, scan) for steps in (4, 2) for scan in ("a", "b")]
    found += [point("tv", 0, 21.0, "a"), Measured("dps", "a", "simulated", 4, 0, 0, 0, 0, 0, 0, {}, "diverged")]
    lines = averaged(found, "simulated")
    assert [value["psnr"] for value in lines["annealed"]] == [22, 24]
    assert "dps" not in lines
    assert "tv" in CLASSICAL
    assert table(lines).splitlines()[2] == "| annealed | 24.00 | 0.900 | 4 | 0.4 | 700 | all |"
    draw(tmp_path / "plot.png", lines, "simulated")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
