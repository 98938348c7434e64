"""How many steps fit into a time: from what jobs took, in work, for one sampler and for several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdrift.prior.bundle import Prior, load_prior
from kdrift_serve.job_request import from_json, resolve_plan
from kdrift_serve.job_table import JobTable
from kdrift_serve.pace import Measured, Pace, Speed, Speeds, check_steps, expected_seconds
from kdrift_serve.problems import Problem
from kdrift_serve.readers import Found
from kdrift_serve.serve_config import Limits, SamplerConfig
from serve_helpers import tiny_prior

FOUND = Found(slices=[0], coils=4, shape=[10, 10], sampling="", notes=[])
SPEED = Speed(image_s=0.001, slice_s=0.02)
"""0.1 s an image and 2 s a slice of 10 x 10."""


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prior]:
    return {"tiny": load_prior(tiny_prior(tmp_path_factory.mktemp("pace") / "tiny"))}


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    made = JobTable(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    yield made
    made.close()


def asked(priors: dict[str, Prior], seconds: float, steps: int = 100, **plan: Any) -> Any:
    values = {"method": "score_mri_hybrid", "num_samples": 1, "settings": {"num_steps": steps}, **plan}
    request = from_json(json.dumps({"example": "phantom", "max_seconds": seconds, "plan": values}).encode())
    return request, resolve_plan(request, priors, Limits())


def test_expected_is_the_time_of_the_longest_sampler(priors: dict[str, Prior]) -> None:
    _, plan = asked(priors, 1.0, num_samples=4)
    images = plan.evaluations(4)
    assert expected_seconds(plan, FOUND, 4, SPEED, 1) == pytest.approx(2 + 0.1 * images)
    two = expected_seconds(plan, FOUND, 4, SPEED, 2)
    assert 0.1 * images / 2 <= two <= 2 + 0.1 * images / 2
    volume = replace(FOUND, slices=[0, 1, 2, 3])
    assert expected_seconds(plan, volume, 4, SPEED, 4) == pytest.approx(2 + 0.1 * images)


@pytest.mark.parametrize("seconds", [4.5, 30.0, 100.0])
def test_the_most_steps_that_fit_are_taken(priors: dict[str, Prior], seconds: float) -> None:
    request, plan = asked(priors, seconds)
    chosen, fitted, note = Pace(priors, Limits(), 1).fit(request, plan, FOUND, SPEED)
    steps = check_steps(fitted)
    assert chosen.plan.settings["num_steps"] == steps
    assert expected_seconds(fitted, FOUND, 4, SPEED, 1) <= seconds
    if steps < 100:
        _, more = asked(priors, seconds, steps + 1)
        assert expected_seconds(more, FOUND, 4, SPEED, 1) > seconds
        assert note.startswith(f"{steps} of 100 steps, to be done in about")
    assert chosen.config(fitted, {})["max_seconds"] == seconds


def test_what_cannot_be_kept_to_is_said(priors: dict[str, Prior]) -> None:
    pace = Pace(priors, Limits(), 1)
    request, plan = asked(priors, 0.5)
    chosen, fitted, note = pace.fit(request, plan, FOUND, SPEED)
    fewest = check_steps(fitted)
    assert note.startswith(f"max_seconds 0.5 cannot be kept to: {fewest} of 100 steps, the fewest of score_mri_hybrid")
    with pytest.raises(Problem):
        asked(priors, 1.0, fewest - 1)
    chosen, fitted, note = pace.fit(request, plan, FOUND, None)
    assert (chosen, fitted) == (request, plan)
    assert "was not kept to: no job of score_mri_hybrid" in note
    assert note.endswith("all 100 steps are done")
    with pytest.raises(Problem, match="tv has no steps") as error:
        check_steps(asked(priors, 1.0, method="tv", settings={})[1])
    assert error.value.status == 422


def test_speeds_are_of_samplers_of_a_kind(table: JobTable) -> None:
    speeds = Speeds(table, SamplerConfig())
    assert speeds.get("f" * 64, "dps", 4096) is None
    speeds.put("f" * 64, "dps", 4096, Speed(1.0, 2.0))
    speeds.put("f" * 64, "dps", 4100, Speed(3.0, 4.0))
    assert speeds.get("f" * 64, "dps", 4096) == Speed(3.0, 4.0)
    assert speeds.get("f" * 64, "daps", 4096) is None
    assert Speeds(table, SamplerConfig(num_gpus=1)).get("f" * 64, "dps", 4096) is None


def test_a_small_image_says_nothing_of_large_ones(table: JobTable) -> None:
    speeds = Speeds(table, SamplerConfig())
    speeds.put("f" * 64, "dps", 65536, Speed(1.0, 1.0))
    speeds.put("f" * 64, "dps", 256, Speed(6.0, 6.0))  # takes longer a pixel
    speeds.put("f" * 64, "daps", 16384, Speed(2.0, 2.0))
    for pixels, known in ((256, 6.0), (300, 6.0), (16384, 1.0), (65536, 1.0), (200_000, 1.0)):
        assert speeds.get("f" * 64, "dps", pixels) == Speed(known, known), pixels
    assert speeds.get("f" * 64, "dps", 300_000) is None
    assert speeds.get("f" * 64, "daps", 65536) == Speed(2.0, 2.0)
    assert speeds.get("f" * 64, "daps", 65537) is None
    assert speeds.slowest("f" * 64, 65536) == Speed(2.0, 2.0)
    assert speeds.slowest("f" * 64, 200_000) == Speed(1.0, 1.0)
    assert speeds.slowest("f" * 64, 10**6) is None


def test_speed_is_per_pixel() -> None:
    assert Measured().speed() is None
    measured = Measured(slices=4.0, chunks=30.0, num_slices=2, evaluations=300, pixels=100)
    assert measured.speed() == Speed(0.001, 0.02)
    classical = Measured(slices=4.0, chunks=6.0, num_slices=2, pixels=100)
    assert classical.speed() == Speed(0.0, 0.05)
