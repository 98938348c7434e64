"""What a batch plans before it starts: units that fill the actors, room on the nodes, what a folder may continue."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_helpers import MASK, PLAN, batch_values, make_inputs
from kdrift.data.measured import Marks
from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.evaluation.partial import (
    is_finished,
    load_seen,
    load_slice,
    mark_finished,
    save_failure,
    save_slice,
    slices_left,
)
from kdrift.evaluation.pool import run_tasks
from kdrift.evaluation.pool_config import PoolConfig, num_actors
from kdrift.evaluation.table import Cell, count_levels, markdown, summarise
from kdrift.evaluation.work import COIL_COST, Unit, VolumeTask, plan_units
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset
from kdrift.recon.gather import SliceFacts
from kdrift.recon.merge import SliceResult
from kdrift.recon.plan import default_prior, load_prior_of
from kdrift.recon.request import AcquisitionRequest
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.seen import Doubts, Seen
from kdrift.runs.config import parse
from kdrift.runs.files import write_json
from kdrift.runs.home import Home
from kdrift.trust.verdict import Evidence, Group, judge

GROUPS = tuple(
    Group(8, 40.0, 3.0, 0.5, 0.25, {"sampler": error, "tv": 0.75, "cg_sense": 1.0}) for error in (2.0, math.inf)
)
VERDICT = judge(Evidence(GROUPS, known=1.5, residual=0.2, excess=3.0, image_noise=0.01, calibrated_by="c.yaml")).giving(
    "tv"
)
"""One with all that a verdict can hold; its sampler predicted something that is no number."""
_NONZERO = np.random.default_rng(0).random((1, 5, 7)) < 0.5
SEEN = Seen(
    Marks(_NONZERO, ~_NONZERO), Doubts(2.5, ("it is odd", "it is old")), Doubts(0.5), np.ones((1, 4, 6), np.float32)
)


def task(out: Path | str = "out/v", cost: float = 1.0, samples: int = 8, coils: int | None = None) -> VolumeTask:
    """A volume whose slices cost `cost`; with `coils`, of a method whose coils are chains of their own."""
    name = "score_mri_ssos" if coils else "annealed"
    options = METHODS[name].preset(None)[1]
    plan = ResolvedPlan(replace(PLAN, method=name, num_samples=samples), Preset(name, {}), options, None)
    unit = options.evaluations * plan.num_chains(coils or 1) + COIL_COST * (coils or 1)
    request = AcquisitionRequest(source="s.zarr/v", mask=MASK)
    return VolumeTask(request, Path(out), plan, tuple(range(9)), coils or 1, cost / unit, "key")  # type: ignore[arg-type]


def checked_task(out: Path | str = "out/v", samples: int = 8) -> VolumeTask:
    """A volume whose slices cost 1: samples, a mean by chains of other settings, and a check, all of other lengths."""
    method = METHODS["annealed"]
    plan = replace(task(samples=samples).plan, options=method.presets["tuned"], spread=method.spread, checks=True)
    return replace(task(out), plan=plan, num_pixels=1 / (plan.evaluations(1) + COIL_COST))  # type: ignore[arg-type]


def makespan(units: list[Unit], actors: int) -> float:
    """When the last actor ends, each taking the next unit as soon as it is free."""
    ends = [0.0] * actors
    for unit in units:
        ends[ends.index(min(ends))] += unit.cost
    return max(ends)


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 7, 9, 16])
@pytest.mark.parametrize("actors", [1, 2, 3, 4, 8])
def test_units_hold_every_chain_once_and_end_together(slices: int, actors: int) -> None:
    units = plan_units([(task(), index) for index in range(slices)], actors)
    samples = Counter((u.index, s) for u in units for chunk in u.chunks for s in range(*chunk.samples))
    assert samples == {(index, sample): 1 for index in range(slices) for sample in range(8)}
    assert makespan(units, actors) <= slices / actors * 1.2  # 8 samples do not divide by 3
    assert len(units) <= slices + (actors - 1) * actors
    if slices % actors == 0:
        assert len(units) == slices


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 7, 9, 16])
@pytest.mark.parametrize("actors", [1, 2, 3, 4, 8])
def test_actors_end_together_where_chunks_cost_differently(slices: int, actors: int) -> None:
    one = checked_task()
    units = plan_units([(one, index) for index in range(slices)], actors)
    held = Counter((u.index, chunk.part, s) for u in units for chunk in u.chunks for s in range(*chunk.samples))
    counts = {"samples": 8, "mean": one.plan.num_means, "check": 2}
    assert held == {(i, part, s): 1 for i in range(slices) for part, count in counts.items() for s in range(count)}
    assert sum(unit.cost for unit in units) == pytest.approx(slices)
    check = one.plan.evaluations(1, one.plan.split(1)[-1]) / one.plan.evaluations(1)  # is one chunk, whatever happens
    assert makespan(units, actors) <= max(1.1 * slices / actors, 1.01 * check)
    prepared = Counter((unit.task.out, unit.index) for unit in units)
    assert max(prepared.values()) <= actors, "an actor has one unit of a slice, which it prepares once"


def test_longest_first_and_what_cannot_be_split_stays_whole() -> None:
    long, short = task("out/long", cost=10.0), task("out/short", cost=0.1, samples=1)
    units = plan_units([*((short, i) for i in range(4)), *((long, i) for i in range(3))], 2)
    costs = [unit.cost for unit in units]
    assert costs == sorted(costs, reverse=True)
    assert Counter(u.task.out.name for u in units) == {"long": 4, "short": 4}
    assert makespan(units, 2) <= 1.05 * sum(costs) / 2
    by_coil = plan_units([(task(samples=1, coils=6), 0)], 3)
    assert [unit.chunks[0].coils for unit in by_coil] == [(0, 2), (2, 4), (4, 6)]
    assert sum(unit.cost for unit in by_coil) == pytest.approx(1)


def test_actors_are_as_many_as_the_nodes_have_room_for() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 5.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    assert num_actors(nodes, PoolConfig()) == 8
    assert num_actors(nodes, PoolConfig(cpus=2)) == 3
    assert num_actors(nodes, PoolConfig(cpus=1, gpus=0.5)) == 2
    with pytest.raises(ValueError, match="no node has the 6 CPUs"):
        num_actors(nodes, PoolConfig(cpus=6))
    with pytest.raises(ValueError, match="cpus > 0"):
        PoolConfig(cpus=0)


def test_a_slice_is_stored_exactly_and_only_for_its_task(tmp_path: Path) -> None:
    one = replace(task(tmp_path / "v"), slices=(3, 4))
    images = torch.rand(4, 5, 6)
    facts = SliceFacts(3, torch.rand(5, 6), 0.1, 2.0, 0.5)
    result = SliceResult(images.mean(0), images.std(0), images, 0.25, 7, 28, {"network": 1.5, "sampler": 0.1},
                         diverged={2: "step 3 of 7: large"}, fallback=True, verdict=VERDICT)  # fmt: skip
    save_slice(one, facts, result, SEEN)
    assert slices_left(one) == [4]
    assert slices_left(replace(one, key="other")) == [3, 4]
    found_facts, found = load_slice(one, 3)
    assert torch.equal(found_facts.zero_filled, facts.zero_filled)
    assert (found_facts.noise_sigma, found_facts.norm, found.misfit, found.nfe) == (0.1, 2.0, 0.25, 7)
    assert (found.diverged, found.fallback) == ({2: "step 3 of 7: large"}, True)
    assert found.verdict == VERDICT
    seen = load_seen(one, 3)
    assert seen is not None
    np.testing.assert_array_equal(seen.marks.nonzero, SEEN.marks.nonzero)
    np.testing.assert_array_equal(seen.marks.residue, SEEN.marks.residue)
    np.testing.assert_array_equal(seen.shown, SEEN.shown)  # type: ignore[arg-type]
    assert (seen.doubts, seen.mask_doubts) == (SEEN.doubts, SEEN.mask_doubts)
    save_failure(one, 4, "no centre", replace(SEEN, shown=None))
    assert load_slice(one, 4) == "no centre"
    assert load_seen(one, 4).shown is None  # type: ignore[union-attr]
    save_failure(one, 4, "its actor was lost", None)
    assert load_seen(one, 4) is None
    assert slices_left(one) == [4]
    assert math.isinf(found.verdict.evidence.predictions["sampler"])
    assert str(found.verdict).endswith("TV is given in its place")
    save_slice(one, replace(facts, index=4), replace(result, verdict=None), SEEN)
    assert load_slice(one, 4)[1].verdict is None  # type: ignore[union-attr]
    (tmp_path / ".partial" / "v" / "00004.npz").unlink()
    assert found.samples is not None
    assert torch.equal(found.samples, images)
    (tmp_path / ".partial" / "v" / "00003.npz").write_bytes(b"PK damaged")
    assert slices_left(one) == [3, 4]
    assert not is_finished(one)
    one.out.mkdir()
    mark_finished(one)
    assert is_finished(one)
    assert not is_finished(replace(one, key="other"))
    assert not (tmp_path / ".partial" / "v").exists()


def test_mistakes_are_named_before_anything_starts(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    for changes, message in (
        ({"volumes": ["absent*"]}, r"no k-space volume of .* matches 'absent\*'; it has large, small"),
        ({"slices": [7, 9]}, "large has 3 slices; none is in the range"),
        ({"plan": {"method": "anealed"}}, "did you mean 'annealed'"),
        ({"prior": "absent"}, "no prior 'absent'"),
        ({"store": str(tmp_path)}, "is not a kdrift store"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruct_batch(parse(BatchConfig, batch_values(inputs, tmp_path / "out", **changes)))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"unknown key 'methods\.tv\.wieght'"):
        parse(EvaluateConfig, {"store": "s", "out": "o", "masks": {"m": {"kind": "gaussian1d"}},
                               "methods": {"tv": {"method": "tv", "wieght": 1}}})  # fmt: skip
    with pytest.raises(ValueError, match="letters, digits"):
        parse(
            EvaluateConfig, {"store": "s", "out": "o", "masks": {"../m": {"kind": "gaussian1d"}}, "methods": {"tv": {}}}
        )


def test_table_keeps_simulated_and_measured_data_apart() -> None:
    def report(psnr: float, simulated: bool) -> dict[str, object]:
        return {"simulated": simulated, "metrics": {"psnr": psnr, "ssim": 0.9, "nmse": 0.01}, "seconds": 4.0,
                "slices": [0, 1], "nfe": 0, "net_acceleration": 3.5}  # fmt: skip

    rows = summarise([Cell("eq4", "tv", [report(30.0, True), report(34.0, False), report(32.0, True)])])
    assert [(row["data"], row["volumes"], row["psnr_mean"]) for row in rows] == [
        ("measured", 1, 34.0), ("simulated", 2, 31.0)
    ]  # fmt: skip
    assert "| eq4 | tv | simulated | 2 | 31.00 ± 1.41 | 0.9000 ± 0.0000 |" in markdown(rows)
    assert "| eq4 | tv | measured | 1 | 34.00 | 0.9000 | 0.01000 | - | - | - | - | - | 2.00 | - | 3.50x |" in markdown(
        rows
    )


def test_table_says_what_is_to_be_believed() -> None:
    def report(coverage: float, levels: list[str], given: list[str], **more: object) -> dict[str, object]:
        verdicts = {
            str(i): {"level": one, "given": two} for i, (one, two) in enumerate(zip(levels, given, strict=True))
        }
        return {"simulated": True, "metrics": {"psnr": 30.0, "ssim": 0.9}, "seconds": 4.0, "slices": [0, 1, 2],
                "nfe": 9, "net_acceleration": 3.5, "verdicts": verdicts, "coverage": coverage,
                "std_error_ratio": 0.8, "ause": 0.0125, **more}  # fmt: skip

    reports = [
        report(0.9, ["trusted", "not trusted", "caution"], ["", "tv", ""]),
        report(0.8, ["trusted", "not trusted", "not checked"], ["", "", ""], fallback=[2]),
    ]
    assert count_levels(reports) == {"trusted": 2, "not trusted": 2, "caution": 1, "not checked": 1}
    (row,) = rows = summarise([Cell("eq4", "annealed", reports)])
    assert [row[name] for name in ("trusted", "caution", "not_trusted", "not_checked", "given")] == [2, 1, 2, 1, 2]
    assert row["coverage_mean"] == pytest.approx(0.85)
    assert row["nmse_mean"] is None  # a figure that could not be told
    text = markdown(rows)
    assert "| coverage | std/error | sparsification error | verdict | given |" in text
    assert (
        "| 0.850 ± 0.071 | 0.80 ± 0.00 | 0.0125 ± 0.0000 | 2 trusted, 1 not checked, 1 caution, 2 not trusted | 2 |"
        in text
    )
    assert "eq4, annealed, simulated: 1 slices that are not trusted are given as a classical image" in text


def test_a_batch_that_is_finished_still_says_what_is_not_to_be_believed(tmp_path: Path) -> None:
    one, lines = replace(task(tmp_path / "v"), slices=(0, 1)), list[str]()
    one.out.mkdir()
    mark_finished(one)
    for found, line in (
        ({"nfe": 0, "verdicts": {"0": {"level": "not checked"}}}, []),
        (
            {"nfe": 9, "verdicts": {"0": {"level": "trusted"}, "1": {"level": "not trusted"}}},
            ["slices: 1 trusted, 1 not trusted"],
        ),
    ):
        write_json(one.out / "metrics.json", found)
        assert run_tasks([one], [], PoolConfig(), Home(tmp_path), echo=lines.append).slices_before == 2
        assert [text.partition(" (")[0] for text in lines] == ["2 of 2 slices are done already", *line]
        lines.clear()


def test_table_says_what_diverged() -> None:
    report = {"simulated": True, "metrics": {"psnr": 30.0, "ssim": 0.9, "nmse": 0.01}, "seconds": 4.0, "slices": [0, 1],
              "nfe": 9, "net_acceleration": 3.5, "diverged": {"0": {"0": "", "1": ""}, "1": {"1": ""}},
              "fallback": [0]}  # fmt: skip
    text = markdown(summarise([Cell("eq4", "dps", [report])]))
    assert "eq4, dps, simulated: 3 samples diverged and are left out, 1 slices of which none was left" in text


def test_every_method_has_its_own_prior_where_none_is_named() -> None:
    wanted = {"annealed": "brain-complex", "score_mri": "brain-magnitude", "hfs_sde": "brain-hfs"}
    for method, name in wanted.items():
        prior = load_prior_of(method)
        assert prior is not None
        assert prior.name == default_prior(method) == name
    with pytest.raises(ValueError, match="no prior 'absent'"):
        load_prior_of("annealed", "absent")
    assert load_prior_of("tv", "absent") is None
