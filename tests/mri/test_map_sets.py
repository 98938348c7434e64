"""How many sets of coil maps calibration lines ask for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.fourier import fft2c
from kdrift.mri.map_sets import SetsSeen, choose_sets, see_sets, stack_maps

SIZE, SIGMA = 64, 3e-3


def scan(width: float, lines: int = 10, *, coils: int = 6, sigma: float = SIGMA, tall: bool = False) -> Tensor:
    """K-space `(coil, row, col)` of an object of so many fields of view across, every 4th and the middle lines."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-2, 2, 2 * SIZE), indexing="ij")
    image = ((y / 0.8).square() + (x / width).square() < 1) * (1 + 0.5 * torch.cos(9 * x) * torch.sin(7 * y))
    maps = torch.as_tensor(birdcage_maps(coils, 2 * SIZE, 2 * SIZE))[:, SIZE // 2 : -SIZE // 2]
    wide, edge = maps * image, SIZE // 2
    folded = wide[..., edge:-edge].clone()
    folded[..., :edge] += wide[..., -edge:]
    folded[..., -edge:] += wide[..., :edge]
    noise = torch.randn(folded.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    kspace = fft2c(folded.to(torch.complex64)) + 2**0.5 * sigma * noise
    kept = torch.zeros(SIZE, dtype=torch.bool)
    kept[::4] = kept[SIZE // 2 - lines // 2 :][:lines] = True
    return torch.where(kept, kspace.mT if tall else kspace, 0)


def chosen(kspace: Tensor, sigma: float = SIGMA, most: int = 2) -> tuple[int, str]:
    return choose_sets(see_sets(kspace, noise_sigma=sigma), most)


@pytest.mark.parametrize(("width", "sets"), [(0.6, 1), (0.8, 1), (0.95, 1), (1.1, 2), (1.3, 2)])
@pytest.mark.parametrize("tall", [False, True])
def test_an_object_wider_than_the_field_of_view_has_two_sets(width: float, sets: int, tall: bool) -> None:
    count, said = chosen(scan(width, tall=tall))
    assert count == sets
    assert ("the second eigenvalue of ESPIRiT is above 0.8 in about" in said) == (sets == 2)


@pytest.mark.parametrize("coils", [2, 3, 12])
def test_any_number_of_coils_will_do(coils: int) -> None:
    assert chosen(scan(0.7, coils=coils))[0] == 1
    assert chosen(scan(1.4, coils=coils))[0] == 2


@pytest.mark.parametrize(("width", "sets"), [(0.6, 1), (0.8, 1), (1.1, 2), (1.3, 2)])
def test_five_lines_are_asked_for_more(width: float, sets: int) -> None:
    assert chosen(scan(width, lines=5))[0] == sets


@pytest.mark.parametrize("width", [0.8, 1.3])
def test_lines_too_few_to_tell_choose_one_set_and_say_so(width: float) -> None:
    count, said = chosen(scan(width, lines=3))
    assert count == 1
    assert "so few calibration lines do not tell why" in said


def test_noise_is_no_second_signal() -> None:
    noisy = scan(0.8, sigma=0.05)
    assert see_sets(noisy).second > 0.3  # where its level is not known
    assert chosen(noisy, 0.05)[0] == 1
    assert chosen(scan(1.3, sigma=0.05), 0.05)[0] == 2


def test_a_method_of_one_set_gets_one_and_is_told() -> None:
    count, said = chosen(scan(1.3), most=1)
    assert count == 1
    assert said.startswith("one set of coil maps, all that the method takes: the second eigenvalue")
    assert chosen(scan(0.6), most=1) == (1, "")
    assert choose_sets(SetsSeen(0.12, (6, 4)))[1].startswith("two sets of coil maps: ")


def test_maps_of_slices_with_other_numbers_of_sets_are_put_together() -> None:
    one, two = torch.ones(4, 3, 5) + 0j, 2 * torch.ones(2, 4, 3, 5) + 0j
    both = stack_maps([one, None, two])
    assert both is not None
    assert both.shape == (3, 2, 4, 3, 5)
    assert torch.equal(both[0, 0], one)
    assert not bool(both[0, 1].any())
    assert not bool(both[1].any())
    assert torch.equal(both[2], two)
    alike = stack_maps([one, one])
    assert alike is not None
    assert alike.shape == (2, 4, 3, 5)
    assert stack_maps([None]) is None
