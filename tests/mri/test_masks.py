"""Sampling masks: net factors, seeds, ACS and the sentences of impossible requests."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrift.mri.masks import KINDS, acs_region, detect_mask, expand_mask, make_mask

SHAPES = st.tuples(st.integers(16, 65), st.integers(32, 97))
# sha256 of a mask of every kind, as drawn when the kinds were written.
GOLDEN = "7b37d6ddcf136de84983e45ae7262cdac311dc9d07ea41ae55b9008a23f91654"
EXACT = ["gaussian1d", "gaussian2d", "poisson", "center"]


def width(part: slice) -> int:
    return part.stop - part.start


@given(st.sampled_from(sorted(KINDS)), SHAPES, st.sampled_from([1, 1.5, 2, 4, 8]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_kind_reports_what_it_drew(kind, shape, acceleration, seed):
    drawn = make_mask(kind, shape, acceleration=acceleration, seed=seed)
    again = make_mask(kind, shape, acceleration=acceleration, seed=seed)
    assert torch.equal(drawn.mask, again.mask)
    assert drawn.mask.shape == shape
    assert drawn.mask.dtype == torch.bool
    assert drawn.net_acceleration == drawn.mask.numel() / int(drawn.mask.sum())
    assert bool(drawn.mask[drawn.acs].all())
    if KINDS[kind].dims == 1:
        assert bool((drawn.mask == drawn.mask[:1]).all())
    found = acs_region(drawn.mask)
    assert bool(drawn.mask[found].all())
    assert width(found[0]) * width(found[1]) >= width(drawn.acs[0]) * width(drawn.acs[1])


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("acceleration", [1, 1.3, 2, 4, 8, 10])
def test_net_factor_is_exact_to_one_line_or_point(kind, acceleration):
    drawn = make_mask(kind, (96, 128), acceleration=acceleration, seed=5)
    step = 96 if KINDS[kind].dims == 1 else 1
    slack = 110 if kind == "center" else step  # the sides of the box are rounded
    assert abs(int(drawn.mask.sum()) - 96 * 128 / acceleration) <= slack


@pytest.mark.parametrize("acceleration", [2, 4, 8])
@pytest.mark.parametrize("kind", ["equispaced", "random"])
def test_net_factor_of_one_dimensional_kinds_holds_on_average(kind, acceleration):
    lines = [int(make_mask(kind, (1, 320), acceleration=acceleration, seed=s).mask.sum()) for s in range(200)]
    assert np.mean(lines) == pytest.approx(320 / acceleration, abs=1.5)
    if kind == "equispaced":
        assert np.ptp(lines) <= 4


def test_default_acs_is_8_percent_up_to_6x_and_4_percent_beyond():
    assert width(make_mask("equispaced", (8, 300), acceleration=6).acs[1]) == 24
    assert width(make_mask("equispaced", (8, 300), acceleration=8).acs[1]) == 12
    assert width(make_mask("random", (8, 300), acceleration=8, acs_lines=20).acs[1]) == 20
    assert width(make_mask("random", (8, 300), acceleration=4, acs_fraction=0.1).acs[1]) == 30


def test_equispaced_lines_lie_at_one_spacing():
    lines = make_mask("equispaced", (1, 320), acceleration=4, acs_lines=0, seed=3).mask[0].nonzero()[:, 0]
    assert set(lines.diff().tolist()) == {4}


def test_released_equispaced_gives_the_published_net_factors():
    # HFS-SDE: "10x, 24 lines" keeps 54 of 320, "12x, 22 lines" keeps 47, for the offsets that overlap least.
    for acceleration, acs, published in ((10, 24, 54), (12, 22, 47)):
        kept = {
            int(
                make_mask(
                    "equispaced", (1, 320), acceleration=acceleration, acs_lines=acs, seed=s, released=True
                ).mask.sum()
            )
            for s in range(60)
        }
        assert published in kept
        assert max(kept) - min(kept) <= 2


def test_released_score_mri_masks_draw_with_replacement():
    one = [make_mask("gaussian1d", (4, 320), acceleration=4, seed=s, released=True) for s in range(20)]
    two = make_mask("gaussian2d", (320, 320), acceleration=8, seed=0, released=True)
    # 4.07 over 1000 seeds; means of 20 spread by 0.04
    assert np.mean([m.net_acceleration for m in one]) == pytest.approx(4.07, abs=0.15)
    assert two.net_acceleration == pytest.approx(11.5, abs=0.3)
    assert width(two.acs[1]) == 0
    points = two.mask.nonzero().double()
    assert points.mean(0).tolist() == pytest.approx([160, 160], abs=1.5)
    assert "released" in two.description


def test_center_is_the_box_that_was_asked_for():
    drawn = make_mask("center", (320, 320), acceleration=6.25)
    assert int(drawn.mask.sum()) == 128 * 128
    assert torch.equal(drawn.mask, make_mask("center", (320, 320), acceleration=2, acs_lines=128).mask)


def test_poisson_keeps_its_distance_and_thins_out():
    drawn = make_mask("poisson", (128, 128), acceleration=8, seed=1)
    inner, outer = drawn.mask[48:80, 48:80].float().mean(), drawn.mask[:16].float().mean()
    assert inner > 4 * outer
    points = drawn.mask[:16].nonzero().double()
    distance = torch.cdist(points, points) + 1e9 * torch.eye(len(points), dtype=torch.float64)
    assert float(distance.min()) > 2.5


def test_masks_of_a_seed_are_the_same_on_every_platform():
    drawn = b"".join(
        np.packbits(make_mask(kind, (48, 64), acceleration=4, seed=7).mask.numpy()).tobytes() for kind in sorted(KINDS)
    )
    assert hashlib.sha256(drawn).hexdigest() == GOLDEN


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "spiral", "acceleration": 4}, "mask kind is one of"),
        ({"kind": "random", "acceleration": 0.5}, "acceleration must be at least 1, got 0.5"),
        ({"kind": "random", "acceleration": float("nan")}, "acceleration must be at least 1"),
        ({"kind": "random", "acceleration": 4, "acs_lines": 65}, "between 0 and the 64 lines"),
        ({"kind": "random", "acceleration": 8, "acs_lines": 20}, "an ACS of 20 lines is more than 8x leaves"),
        ({"kind": "gaussian2d", "acceleration": 8, "acs_lines": 32}, "an ACS of 1024 points is more than 8x"),
        ({"kind": "random", "acceleration": 4, "acs_lines": 4, "acs_fraction": 0.1}, "not both"),
        ({"kind": "random", "acceleration": 4, "acs_fraction": 1.5}, "acs_fraction must lie between 0 and 1"),
        ({"kind": "poisson", "acceleration": 4, "released": True}, "no released variant"),
        ({"kind": "random", "acceleration": 100, "acs_lines": 0, "released": True}, "keeps nothing"),
    ],
)
def test_impossible_requests_say_why(options, sentence):
    kind = options.pop("kind")
    with pytest.raises(ValueError, match=sentence):
        make_mask(kind, (64, 64), **options)


def test_detect_mask_finds_what_was_sampled():
    mask = make_mask("poisson", (33, 40), acceleration=4, seed=2).mask
    kspace = torch.randn(2, 3, 33, 40, dtype=torch.complex64) * mask
    assert torch.equal(detect_mask(kspace), mask)


@pytest.mark.parametrize(("size", "acs"), [(16, 4), (16, 5), (17, 4), (17, 5), (16, 1), (17, 17)])
def test_acs_region_finds_the_box_for_odd_and_even_sizes(size, acs):
    drawn = make_mask("center", (size, size + 3), acceleration=2, acs_lines=acs)
    assert acs_region(drawn.mask) == drawn.acs


def test_acs_region_is_empty_where_the_centre_was_not_sampled():
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[:, 4] = False
    assert not mask[acs_region(mask)].numel()


def test_expand_mask_checks_its_shape():
    line = torch.tensor([1.0, 0, 1])
    assert torch.equal(expand_mask(line, (2, 3)), torch.tensor([[True, False, True]] * 2))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\)"):
        expand_mask(line, (2, 4))
