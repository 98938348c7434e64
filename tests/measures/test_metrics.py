"""NMSE, PSNR and SSIM against scikit-image and fastMRI's definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kdrift.measures.metrics import METRICS, evaluate, nmse, psnr, ssim

SHAPES = st.tuples(st.integers(1, 3), st.integers(7, 40), st.integers(7, 40))


def pair(shape, seed):
    rng = np.random.default_rng(seed)
    reference = rng.random(shape) * rng.uniform(0.1, 10)
    return reference, reference + 0.1 * rng.standard_normal(shape)


@given(SHAPES, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_volume_metrics_agree_with_scikit_image(shape, seed):
    reference, image = pair(shape, seed)
    r, i = torch.as_tensor(reference), torch.as_tensor(image)
    largest = reference.max()
    per_slice = [
        structural_similarity(a, b, data_range=largest, win_size=7) for a, b in zip(reference, image, strict=True)
    ]
    assert ssim(r, i) == pytest.approx(np.mean(per_slice), abs=1e-6)
    assert psnr(r, i) == pytest.approx(peak_signal_noise_ratio(reference, image, data_range=largest), abs=1e-6)
    expected = np.linalg.norm(reference - image) ** 2 / np.linalg.norm(reference) ** 2
    assert nmse(r, i) == pytest.approx(expected, rel=1e-9)


@given(SHAPES, st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_slice_metrics_are_the_mean_over_single_slices(shape, seed):
    reference, image = (torch.as_tensor(x) for x in pair(shape, seed))
    for metric in METRICS.values():
        single = [metric.function(r, i) for r, i in zip(reference, image, strict=True)]
        assert metric.function(reference, image, per="slice") == pytest.approx(np.mean(single), abs=1e-9)


def test_float32_volume_keeps_the_precision_of_the_definition():
    reference, image = pair((2, 64, 64), 0)
    r, i = (torch.as_tensor(x, dtype=torch.float32) for x in (reference, image))
    expected = np.mean(
        [
            structural_similarity(a, b, data_range=float(r.max()), win_size=7)
            for a, b in zip(r.double().numpy(), i.double().numpy(), strict=True)
        ]
    )
    assert ssim(r, i) == pytest.approx(expected, abs=1e-6)


def test_data_range_and_complex_images():
    reference, image = (torch.as_tensor(x) for x in pair((1, 16, 16), 3))
    assert psnr(reference, image, data_range=2.0 * float(reference.max())) == pytest.approx(
        psnr(reference, image) + 20 * math.log10(2)
    )
    phase = torch.polar(torch.ones_like(reference), torch.rand_like(reference))
    assert psnr(reference * phase, image.abs()) == pytest.approx(psnr(reference, image.abs()))


def test_equal_images():
    image = torch.rand(1, 9, 9)
    assert evaluate(image, image) == {"psnr": math.inf, "ssim": pytest.approx(1.0), "nmse": 0.0}
    assert psnr(image, image, per="slice") == math.inf


def test_every_metric_says_what_it_is():
    assert set(METRICS) == {"psnr", "ssim", "nmse"}
    assert all("fastMRI" in m.definition and m.unit for m in METRICS.values())


@pytest.mark.parametrize(
    ("reference", "image", "options", "sentence"),
    [
        (
            torch.ones(2, 8, 8),
            torch.ones(1, 8, 8),
            {},
            r"reference has shape \(2, 8, 8\), image has \(1, 8, 8\)",
        ),
        (torch.zeros(1, 8, 8), torch.ones(1, 8, 8), {}, "zero everywhere"),
        (torch.ones(1, 6, 8), torch.ones(1, 6, 8), {}, "at least 7 x 7"),
        (torch.ones(1, 8, 8), torch.ones(1, 8, 8), {"per": "image"}, "volume"),
        (torch.ones(1, 8, 8), torch.ones(1, 8, 8), {"data_range": 0.0}, "data_range must be above 0"),
        (torch.ones(8), torch.ones(8), {}, "need axes"),
    ],
)
def test_errors_say_what_came(reference, image, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ssim(reference, image, **options)
