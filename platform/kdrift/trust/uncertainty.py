"""Moments of posterior samples, and how far their spread can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.special import ndtri, stdtrit
from torch import Tensor

from kdrift.mri.linop import LinearOperator

OBJECT_FRACTION = 0.05
"""What is above this part of the largest value of a slice is object."""
CLOSED = 5
"""Gaps in the object narrower than about so many pixels are closed."""
WINDOW = 7
"""Rows and columns of the windows over which deviation and error are compared."""
DEFINITIONS = {
    "coverage": "share of the object's pixels whose reference lies within the interval lower to upper; `level` is what"
    " it should be",
    "std_error_ratio": "root mean square of std over that of the error; 1 is right, below 1 is too sure",
    "std_error_rank_correlation": "Spearman's correlation of std and error, each the root mean square over the object's"
    f" part of {WINDOW} x {WINDOW} windows",
    "ause": "area between the error of the pixels that are left when those of the largest std are removed first, and"
    " when those of the largest error are; over the error of all (Ilg et al. 2018)",
    "ause_random": "the same area of a std that knows nothing",
}
"""What `summary` returns, all of it of the object (`object_mask` of the reference) in all slices together."""


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and squared deviations of samples, merged without keeping them (Chan et al. 1983)."""

    count: int
    """Samples seen."""
    mean: Tensor
    """Mean, of one sample's shape, real or complex."""
    m2: Tensor
    """Sum over samples of |x - mean|^2, real."""

    @staticmethod
    def of(samples: Tensor) -> RunningMoments:
        """Moments of `samples` (sample, *shape), at least one. Raises ValueError for none."""
        if samples.ndim == 0 or len(samples) == 0:
            raise ValueError("moments need at least one sample along the first axis")
        mean = samples.mean(0)
        return RunningMoments(len(samples), mean, (samples - mean).abs().square().sum(0))

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Moments of both sets of samples together. Raises ValueError for samples of another shape."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"samples have shape {tuple(self.mean.shape)} here and {tuple(other.mean.shape)} there")
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta.abs().square() * (self.count * other.count / count)
        return RunningMoments(count, mean, m2)

    @property
    def std(self) -> Tensor:
        """Sample standard deviation (ddof = 1), zero for one sample.

        For complex samples that of the whole complex number: sqrt 2 times sigma where both components have
        sigma.
        """
        return (self.m2 / max(1, self.count - 1)).sqrt()


def object_mask(reference: Tensor) -> Tensor:
    """Return where there is object in real images `(*batch, row, col)`, boolean.

    Each image by itself: what is above `OBJECT_FRACTION` of its maximum, closed, holes filled, and of that the largest
    connected component. An image of zeros has no object.
    """
    images = reference.detach().cpu().numpy().reshape(-1, *reference.shape[-2:])
    masks = np.stack([_object(image) for image in images]) if len(images) else np.zeros(images.shape, bool)
    return torch.from_numpy(masks).reshape(reference.shape)


def _object(image: np.ndarray) -> np.ndarray:
    above = np.pad(image > OBJECT_FRACTION * max(image.max(), 0), CLOSED)  # closing eats what touches the margin
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(above, np.ones((CLOSED, CLOSED))))
    labels, count = ndimage.label(filled)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count else filled
    return np.asarray(largest[CLOSED:-CLOSED, CLOSED:-CLOSED])


def summary(mean: Tensor, std: Tensor, reference: Tensor, level: float = 0.9) -> dict[str, float]:
    """Return how well a deviation tells the error, by the names of `DEFINITIONS`.

    Real images `(*batch, row, col)` of one shape; slices whose std is zero everywhere say nothing and are left out, as
    is a figure that is not defined: of an error that is zero, or a std that is constant. Raises ValueError for other
    shapes, and a level outside (0, 1).
    """
    if not mean.shape == std.shape == reference.shape:
        shapes = ", ".join(str(tuple(each.shape)) for each in (mean, std, reference))
        raise ValueError(f"mean, std and reference have the shapes {shapes}, expected one")
    images, stds, truth = (each.reshape(-1, *each.shape[-2:]) for each in (mean, std, reference))
    told = stds.flatten(1).any(1)
    images, stds, truth = images[told], stds[told], truth[told]
    error = images - truth
    mask = object_mask(truth)
    if int(mask.sum()) < 2:
        return {}
    (covered,) = coverage(images, stds, truth, [level], mask=mask).values()
    found = {"coverage": covered}
    square = float(error[mask].double().square().mean())
    if square > 0:
        found["std_error_ratio"] = float(stds[mask].double().square().mean() / square) ** 0.5
        curve = sparsification_error(stds, error, mask)
        found |= {"ause": curve.ause, "ause_random": curve.ause_random}
    spreads, errors = _windowed(stds, mask), _windowed(error, mask)
    if all(bool((values[mask] != values[mask][0]).any()) for values in (spreads, errors)):
        found["std_error_rank_correlation"] = spearman(spreads, errors, mask)
    return {name: found[name] for name in DEFINITIONS if name in found}


def _windowed(values: Tensor, mask: Tensor) -> Tensor:
    """Return the root mean square of `values` over the part of a window around each pixel that `mask` marks."""
    inside, size = mask.double().numpy(), (1, WINDOW, WINDOW)
    squares = ndimage.uniform_filter(values.double().square().numpy() * inside, size, mode="constant")
    share = ndimage.uniform_filter(inside, size, mode="constant")
    return torch.from_numpy(np.sqrt(np.divide(squares.clip(0), share, out=np.zeros_like(share), where=inside > 0)))


def spearman(std: Tensor, error: Tensor, mask: Tensor | None = None) -> float:
    """Spearman's rank correlation of `std` and `error` (same shape) where `mask`, ties by their mean rank.

    Raises ValueError for unequal shapes, fewer than two pixels, or a map that is constant.
    """
    from scipy.stats import rankdata  # takes a second to import

    x, y = (torch.from_numpy(rankdata(v.cpu().numpy())) for v in _selected(mask, std=std, error=error))
    x, y = x - x.mean(), y - y.mean()
    scale = float(x.norm() * y.norm())
    if scale == 0:
        raise ValueError("rank correlation is not defined: std or error is constant")
    return float(x @ y) / scale


def coverage(
    mean: Tensor,
    std: Tensor,
    reference: Tensor,
    levels: Sequence[float] = (0.5, 0.68, 0.9, 0.95),
    *,
    num_samples: int | None = None,
    mask: Tensor | None = None,
) -> dict[float, float]:
    """Fraction of pixels with |reference - mean| within the central interval of each nominal level.

    Intervals are mean +- z std of a normal distribution; with `num_samples` K, from which mean and std were
    taken, they are Student's prediction intervals, t_(K-1) std sqrt(1 + 1/K), which a calibrated posterior
    of few samples meets. Real arrays of one shape. Raises ValueError for other shapes and levels outside
    (0, 1).
    """
    if bad := [level for level in levels if not 0 < level < 1]:
        raise ValueError(f"levels must lie between 0 and 1, got {bad[0]:g}")
    if num_samples is not None and num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 for a spread, got {num_samples}")
    m, s, r = _selected(mask, mean=mean, std=std, reference=reference)
    distance = (r - m).abs()
    found = {}
    for level in levels:
        if num_samples is None:
            width = float(ndtri(0.5 + level / 2))
        else:
            width = float(stdtrit(num_samples - 1, 0.5 + level / 2)) * math.sqrt(1 + 1 / num_samples)
        found[float(level)] = float((distance <= width * s).double().mean())
    return found


@dataclass(frozen=True)
class Sparsification:
    """Sparsification curves and the area between them (Ilg et al. 2018)."""

    fraction: Tensor
    """Fraction of pixels removed, (point,)."""
    curve: Tensor
    """Root mean square error of the pixels left, largest std removed first, relative to that of all, (point,)."""
    oracle: Tensor
    """The same with the largest error removed first: the best that any std could do, (point,)."""
    ause: float
    """Area between curve and oracle: 0 where std orders pixels as the error does."""
    ause_random: float
    """Area between the flat line 1 of a std that knows nothing and the oracle."""


def sparsification_error(
    std: Tensor, error: Tensor, mask: Tensor | None = None, *, num_points: int = 100
) -> Sparsification:
    """Sparsification of |error| by `std`, real, of one shape, where `mask`; AUSE by the trapezoidal rule.

    Raises ValueError for unequal shapes, fewer than two pixels, or an error that is zero.
    """
    s, e = _selected(mask, std=std, error=error)
    e = e.abs()
    total = float(e.square().mean().sqrt())
    if total == 0:
        raise ValueError("sparsification is not defined: the error is zero everywhere")
    removed = (torch.arange(num_points, dtype=torch.float64) / num_points * len(e)).long()
    left = len(e) - removed

    def curve(order: Tensor) -> Tensor:
        kept = torch.cumsum(e[order].square(), 0)
        return (kept[(left - 1).to(kept.device)].cpu() / left).sqrt() / total

    found, oracle = curve(s.argsort(stable=True)), curve(e.argsort(stable=True))
    fraction = removed / len(e)
    ause = float(torch.trapezoid(found - oracle, fraction))
    return Sparsification(fraction, found, oracle, ause, float(torch.trapezoid(1 - oracle, fraction)))


@dataclass(frozen=True)
class NullSpaceSplit:
    """Spread of samples in what was measured and in what was not."""

    measured_std: Tensor
    """Standard deviation map of the measured part, one sample's shape."""
    null_std: Tensor
    """Standard deviation map of the part in the null space of A, one sample's shape."""
    null_fraction: float
    """Share of the total variance that lies in the null space, 0 to 1."""


def null_space_split(
    operator: LinearOperator, samples: Tensor, *, lam: float = 1e-6, max_iter: int = 100
) -> NullSpaceSplit:
    """Split the deviations d of samples (sample, *ishape) into A^+ A d and (I - A^+ A) d.

    A^+ A d = (A^H A + lam)^-1 A^H A d by the operator's own `solve_normal`, with directions of A^H A below
    `lam` counted as null space. Raises ValueError for fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"a spread needs at least 2 samples, got {len(samples)}")
    deviation = samples - samples.mean(0)
    measured = operator.solve_normal(operator.normal(deviation), lam, max_iter=max_iter, tol=1e-6)
    null = deviation - measured
    variance = [part.abs().square().sum(0) / (len(samples) - 1) for part in (measured, null)]
    total = float(variance[0].sum() + variance[1].sum())
    fraction = float(variance[1].sum()) / total if total > 0 else 0.0
    return NullSpaceSplit(variance[0].sqrt(), variance[1].sqrt(), fraction)


def _selected(mask: Tensor | None, **arrays: Tensor) -> list[Tensor]:
    """Flat float64 values of arrays of one shape where the mask is set."""
    first, shape = next((name, array.shape) for name, array in arrays.items())
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"{name} has shape {tuple(array.shape)}, {first} has {tuple(shape)}")
        if array.is_complex():
            raise ValueError(f"{name} is complex: take magnitudes, or one component, first")
    keep = slice(None) if mask is None else (mask != 0).expand(shape)
    values = [array.detach()[keep].double().flatten() for array in arrays.values()]
    if len(values[0]) < 2:
        raise ValueError(f"the mask leaves {len(values[0])} pixels: at least 2 are needed")
    return values
