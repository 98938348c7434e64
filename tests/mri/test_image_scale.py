"""The scale of images: each rule against its definition, where it falls back, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdrift.data.data_config import DataConfig
from kdrift.mri.image_scale import ImageScale
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.slices import RawSlice, prepare_slice
from kdrift.sde import WhiteNoise


def test_rules_are_what_they_say() -> None:
    magnitude = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(0))
    array = magnitude.numpy()
    assert ImageScale("quantile", 0.75).of(magnitude) == pytest.approx(float(np.quantile(array, 0.75)), rel=1e-6)
    assert ImageScale("std").of(magnitude) == pytest.approx(float(array.std()), rel=1e-5)
    assert ImageScale("max").of(magnitude) == float(array.max())
    for scale in (ImageScale(), ImageScale("quantile", 0.5), ImageScale("std"), ImageScale("max")):
        assert scale.of(array) == pytest.approx(scale.of(magnitude), rel=1e-5)


def test_default_is_the_scale_of_a_slice_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    kspace = torch.randn(2, 24, 20, dtype=torch.complex64, generator=generator)
    data = prepare_slice(RawSlice(0, kspace, torch.ones(24, 20, dtype=torch.bool)))
    assert ImageScale().of(data.zero_filled) == data.scale
    assert data.scale == pytest.approx(float(np.quantile(data.zero_filled.numpy(), 0.99)), rel=1e-6)
    assert DataConfig(stores=["a"], crop=16).image_scale == PriorInfo(WhiteNoise(0.01, 5.0)).scale == ImageScale()
    assert ImageScale(number=0.5).of(data.zero_filled) < data.scale


@pytest.mark.parametrize("rule", ["quantile", "std", "max"])
def test_an_image_that_is_nearly_empty_is_divided_by_its_maximum(rule: str) -> None:
    spike = torch.zeros(40, 40)
    scale = ImageScale(rule)  # type: ignore[arg-type]
    assert scale.of(spike) == scale.of(spike.numpy()) == 0
    spike[3, 4] = 2.0
    expected = 2.0 if rule != "std" else 2.0 * (1 / 1600 * (1 - 1 / 1600)) ** 0.5
    assert scale.of(spike) == pytest.approx(expected)
    assert scale.of(spike.numpy()) == pytest.approx(expected)


def test_what_is_no_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="quantile, std or max, got 'mean'"):
        ImageScale("mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"quantile is 1\.5"):
        ImageScale(number=1.5)
    with pytest.raises(ValueError, match="must be > 0"):
        ImageScale(value=0.0)
