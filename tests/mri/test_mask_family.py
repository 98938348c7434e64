"""What is said of masks, and which are of a family."""

from __future__ import annotations

import math

import pytest
import torch

from kdrift.mri.mask_family import MaskFamily, mask_facts
from kdrift.mri.masks import make_mask

FOUR = MaskFamily("lines", (3.0, 5.5), (0.04, 0.12))


@pytest.mark.parametrize("by_rows", [False, True])
def test_lines_by_columns_and_by_rows(by_rows: bool) -> None:
    mask = make_mask("equispaced", (60, 128), acceleration=4, acs_fraction=0.08).mask
    facts = mask_facts(mask.mT if by_rows else mask)
    assert (facts.unit, facts.net_acceleration) == ("lines", pytest.approx(4.0))
    assert facts.acs == pytest.approx(0.08, abs=0.02)  # a line beside the centre may belong to the comb
    assert FOUR.differences(facts) == ()
    assert str(facts) == "lines at 4.0x"


@pytest.mark.parametrize("kind", ["gaussian2d", "poisson"])
def test_points(kind: str) -> None:
    facts = mask_facts(make_mask(kind, (96, 96), acceleration=4, acs_fraction=0.08).mask)
    assert (facts.unit, facts.net_acceleration) == ("points", pytest.approx(4.0, abs=0.01))
    assert facts.acs >= 0.08
    assert FOUR.differences(facts)[0] == "it is of points"


def test_padded_lines_are_lines_and_of_no_family() -> None:
    padded = torch.zeros(128, 256, dtype=torch.bool)
    padded[32:96, 64:192] = make_mask("equispaced", (64, 128), acceleration=4, acs_fraction=0.08).mask
    facts = mask_facts(padded)
    assert facts.unit == "lines"
    assert facts.extent <= 0.5
    said = FOUR.differences(facts)
    assert "it is at 16.00x" in said
    assert any("samples span" in each for each in said)


def test_full_and_empty_masks_have_facts() -> None:
    full, empty = mask_facts(torch.ones(8, 8)), mask_facts(torch.zeros(8, 8))
    assert (full.unit, full.net_acceleration, full.acs, full.extent) == ("lines", 1.0, 1.0, 1.0)
    assert empty.net_acceleration == math.inf
    assert FOUR.differences(full)
    assert FOUR.differences(empty)


def test_other_acceleration_and_centre_are_named() -> None:
    eight = mask_facts(make_mask("equispaced", (64, 256), acceleration=8, acs_fraction=0.02).mask)
    first, second = FOUR.differences(eight)
    assert first.startswith("it is at 8.")
    assert second.startswith("its centre is 2.")
    assert str(FOUR) == "lines at 3 to 5.5x, centre 4 to 12 %"


@pytest.mark.parametrize(("net", "acs"), [((0.5, 4), (0, 1)), ((5, 4), (0, 1)), ((2, 4), (0.5, 0.1)), ((2, 4), (0, 8))])
def test_a_family_of_nothing_is_refused(net: tuple[float, float], acs: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"a family has net_acceleration \[low, high\]"):
        MaskFamily("lines", net, acs)
