"""Groups of samples that are held out to judge a slice."""

from __future__ import annotations

import pytest
import torch

from kdrift.mri.heldout import POINTS, draw_groups, untested
from kdrift.mri.mask_family import whole_lines
from kdrift.mri.masks import acs_region, make_mask
from kdrift.trust.verdict import UNTESTED

SHAPE = (96, 120)


def drawn(kind: str, acceleration: float, acs: float = 0.08) -> torch.Tensor:
    mask = make_mask(kind, SHAPE, acceleration=acceleration, acs_fraction=acs, seed=3).mask
    return torch.as_tensor(mask).expand(SHAPE).clone()


@pytest.mark.parametrize(
    ("kind", "acceleration"), [("equispaced", 2), ("equispaced", 4), ("random", 4), ("gaussian1d", 4)]
)
def test_lines_are_held_out_whole_outside_of_the_acs_and_stand_for_all_that_is_missing(
    kind: str, acceleration: float
) -> None:
    mask = drawn(kind, acceleration, 0.04 if acceleration == 8 else 0.08)
    groups = draw_groups(mask, seed=0)
    assert len(groups) == 3
    box, distances = acs_region(mask), []
    for group in groups:
        assert bool((group.mask <= mask).all())
        columns = group.mask.any(0).nonzero().flatten().tolist()
        assert len(columns) == 1
        assert bool(group.mask[:, columns[0]].all())
        assert not group.mask[box].any()
        distances.append(abs(columns[0] - SHAPE[1] // 2))
    assert distances == sorted(distances)
    missing = int((~mask[0]).sum())
    assert sum(group.share for group in groups) == pytest.approx(missing)
    again = draw_groups(mask, seed=0)
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(groups, again, strict=True))
    assert any(
        not torch.equal(a.mask, b.mask) for a, b in zip(groups, draw_groups(mask, seed=0, number=1), strict=True)
    )


def test_rows_that_are_undersampled_are_held_out_as_rows() -> None:
    mask = drawn("equispaced", 4).new_zeros(SHAPE)
    mask[make_mask("equispaced", (SHAPE[1], SHAPE[0]), acceleration=4, acs_fraction=0.1, seed=0).mask[0]] = True
    for group in draw_groups(mask, seed=1):
        assert int(group.mask.any(1).sum()) == 1


@pytest.mark.parametrize("kind", ["poisson", "gaussian2d"])
def test_points_are_held_out_in_rings(kind: str) -> None:
    mask = drawn(kind, 4)
    groups = draw_groups(mask, seed=0)
    total = sum(int(group.mask.sum()) for group in groups)
    spared = int(mask[acs_region(mask)].sum())
    assert total == pytest.approx(POINTS * (int(mask.sum()) - spared), rel=0.02)
    shares = sum(group.share * int(group.mask.sum()) for group in groups)
    assert shares == pytest.approx(int((~mask).sum()))


def test_few_candidates_give_few_groups_and_none_gives_none() -> None:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, 50:70] = True
    assert draw_groups(mask, seed=0) == []
    mask[:, [10, 20, 30, 90, 110]] = True
    assert len(draw_groups(mask, seed=0)) == 1
    assert draw_groups(torch.ones(SHAPE, dtype=torch.bool), seed=0) == []


def test_lines_stay_lines_where_a_spike_was_left_out() -> None:
    mask = drawn("equispaced", 4)
    line = int(mask[0].nonzero().flatten()[0])
    mask[7, line] = False
    lines = whole_lines(mask)
    assert lines is not None
    assert bool(lines[0, line])
    assert whole_lines(drawn("poisson", 4)) is None
    assert all(int(group.mask.any(0).sum()) == 1 for group in draw_groups(mask, seed=0))


@pytest.mark.parametrize(
    ("kind", "acceleration"),
    [(kind, a) for kind in ("equispaced", "random", "gaussian1d", "gaussian2d", "poisson") for a in (3, 4, 8)],
)
def test_masks_as_they_are_drawn_are_tested_by_what_is_held_out(kind: str, acceleration: float) -> None:
    mask = drawn(kind, acceleration, 0.04 if acceleration == 8 else 0.08)
    for number in range(3):
        assert untested(mask, draw_groups(mask, seed=0, number=number)) < UNTESTED


def test_gaps_wider_than_those_of_held_out_lines_are_untested() -> None:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, 45:75] = mask[:, :16:2] = mask[:, 105::2] = True
    assert untested(mask, draw_groups(mask, seed=0)) > UNTESTED
    assert untested(mask.mT, draw_groups(mask.mT, seed=0)) > UNTESTED
    assert untested(drawn("equispaced", 4), draw_groups(drawn("equispaced", 4), seed=0)) == 0
