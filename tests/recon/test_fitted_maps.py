"""Coil maps fitted with a prior: which kind, where the calibration lines leave that open."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdrift.data.phantom import phantom_volume
from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import low_resolution_maps, normalise_maps, rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask
from kdrift.prior.bundle import load_prior
from kdrift.recon.gather import SliceFacts
from kdrift.recon.plan import Plan
from kdrift.recon.slices import RawSlice, SliceData

SIZE = 64


def phantom() -> Tensor:
    image = torch.as_tensor(phantom_volume(1, SIZE, SIZE, 1, seed=3).reference[0])
    return image / image.max()


def steep_maps() -> Tensor:
    """Four coils in the corners, whose phase turns twice over the field of view, away from the corner."""
    y, x = (torch.linspace(-1, 1, SIZE)[at] for at in ((slice(None), None), (None, slice(None))))
    coils = [
        torch.polar(torch.exp(-((y - 0.6 * row) ** 2 + (x - 0.6 * col) ** 2) / 0.7), 4.5 * (row * y + col * x))
        for row, col in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    return normalise_maps(torch.stack(coils))


def measured(coil_images: Tensor, lines: int = 10) -> RawSlice:
    shape = tuple(coil_images.shape[-2:])
    kept = torch.as_tensor(make_mask("equispaced", shape, acceleration=3, acs_lines=lines).mask)
    noise = torch.randn(*coil_images.shape, 2, generator=torch.Generator().manual_seed(0))
    return RawSlice(0, torch.where(kept, fft2c(coil_images) + 0.01 * torch.view_as_complex(noise), 0), kept)


def prepared(raw: RawSlice, plan: Plan) -> SliceData:
    prior = load_prior("brain-complex")
    return plan.resolve(prior).prepare(raw, prior)


def unexplained(maps: Tensor, coil_images: Tensor) -> float:
    left = coil_images - maps * (maps.conj() * coil_images).sum(0)
    return float(left.norm().square() / coil_images.norm().square())


@pytest.mark.slow
def test_coils_that_espirit_cannot_follow_get_one_set_from_low_resolution_images() -> None:
    coil_images = steep_maps() * phantom()
    raw, plan = measured(coil_images), Plan()
    data = prepared(raw, plan)
    assert data.smaps.ndim == 3
    assert data.asked_sets == 1
    one, two = map(float, re.findall(r"([\d.]+)%", data.sets_note)[:2])
    assert one < two
    assert unexplained(data.smaps, coil_images) < 1e-3
    assert data.sets_note.startswith("one set of coil maps, fitted from low-resolution images (left-out samples")
    assert data.sets_note in SliceFacts.of(data, 0.0).notes
    told = prepared(raw, replace(plan, num_map_sets=1))  # as many as asked for are ESPIRiT's, fitted
    assert told.sets_note == ""
    again = prepared(raw, plan)
    assert torch.equal(again.smaps, data.smaps)


def test_an_object_wider_than_the_field_of_view_keeps_two_sets() -> None:
    wide, width = torch.from_numpy(birdcage_maps(6, SIZE, SIZE)) * phantom(), 44
    folded = torch.zeros(6, SIZE, width, dtype=wide.dtype)
    folded.index_add_(-1, (torch.arange(SIZE) - (SIZE - width) // 2) % width, wide)
    raw = measured(folded, lines=8)
    data = prepared(raw, Plan())
    assert (data.smaps.shape[0], data.asked_sets) == (2, 2)
    two, one = map(float, re.findall(r"([\d.]+)%", data.sets_note)[:2])
    assert two <= one
    assert data.sets_note.startswith("two sets of coil maps (left-out samples are predicted with")


def test_maps_of_low_resolution_are_the_coils_shares() -> None:
    maps = torch.from_numpy(birdcage_maps(4, SIZE, SIZE))
    along = torch.exp(-8 * torch.linspace(-1, 1, SIZE).square())
    kspace = fft2c(maps * along * along[:, None])
    kspace[..., : SIZE // 2 - 6] = kspace[..., SIZE // 2 + 6 :] = 0
    found = low_resolution_maps(kspace)
    assert found is not None
    bright = rss(ifft2c(kspace)) > 0.1
    torch.testing.assert_close(rss(found)[bright], torch.ones(int(bright.sum())))
    agreement = (found.conj() * maps).sum(0).abs()[bright]
    assert float(agreement.min()) > 0.98
    few = torch.zeros_like(kspace)
    few[..., SIZE // 2 - 1 : SIZE // 2 + 1] = kspace[..., SIZE // 2 - 1 : SIZE // 2 + 1]
    assert low_resolution_maps(few) is None


@pytest.mark.parametrize("axis", [-1, -2])
def test_either_axis_may_be_the_narrow_one(axis: int) -> None:
    maps = torch.from_numpy(birdcage_maps(4, SIZE, SIZE))
    kspace = fft2c(maps * phantom())
    kept = torch.zeros(SIZE, dtype=torch.bool)
    kept[SIZE // 2 - 5 : SIZE // 2 + 5] = True
    kept = kept if axis == -1 else kept[:, None]
    found = low_resolution_maps(torch.where(kept, kspace, 0))
    assert found is not None
    assert np.isfinite(found.numpy()).all()
    transposed = low_resolution_maps(torch.where(kept, kspace, 0).mT.contiguous())
    assert transposed is not None
    bright = phantom() > 0.05
    torch.testing.assert_close(transposed.mT[:, bright], found[:, bright], rtol=1e-3, atol=1e-4)
