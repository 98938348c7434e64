"""Give a baseline its best regularisation on one slice before it is compared with anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.data.centring import centre_crop
from kdrift.measures.metrics import METRICS, evaluate
from kdrift.methods import METHODS, Measurement

#: Grids to start from, a factor of 2 apart; `tune` goes on past an end where the best lies there.
GRIDS: dict[str, tuple[float, ...]] = {
    "cg_sense": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    "tv": (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3),
    "l1_wavelet": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
}


@dataclass(frozen=True)
class Trial:
    """One weight of the grid and what came of it."""

    #: regularisation weight.
    weight: float
    #: values by name, as `kdrift.measures.metrics.evaluate` gives them.
    metrics: dict[str, float]
    #: time of this reconstruction.
    seconds: float


@dataclass(frozen=True)
class TunedBaseline:
    """A baseline at its best weight on one slice."""

    #: name of the method.
    name: str
    #: metric that was optimised.
    metric: str
    #: the best weight.
    weight: float
    #: complex image (row, col) at the best weight.
    image: Tensor
    #: every weight that was tried, ascending.
    table: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial at the best weight."""
        return next(trial for trial in self.table if trial.weight == self.weight)

    def best_value(self, metric: str) -> float:
        """The best value of any metric over all weights tried, whichever metric was optimised."""
        values = [trial.metrics[metric] for trial in self.table]
        return max(values) if METRICS[metric].higher_is_better else min(values)


def tune(
    name: str,
    kspace: Tensor,
    mask: Tensor,
    smaps: Tensor | None,
    reference: Tensor,
    weights: Sequence[float] | None = None,
    *,
    metric: str = "psnr",
    max_iter: int | None = None,
    max_extensions: int = 6,
) -> TunedBaseline:
    """Grid search over the regularisation weight of a baseline against the reference of that very slice.

    kspace (coil, row, col), mask (row, col), smaps (coil, row, col) or None, reference magnitude (row, col),
    which may be smaller than the image: its centre is compared. `weights` (default `GRIDS`) are log-spaced;
    while the best lies at an end the grid goes on there by the same ratio, up to `max_extensions` times.
    Raises ValueError for an unknown name or metric and for weights that cannot be extended (not positive).
    """
    if name not in GRIDS:
        raise ValueError(f"unknown baseline {name!r}, known: {', '.join(GRIDS)}")
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}, known: {', '.join(METRICS)}")
    grid = sorted(GRIDS[name] if weights is None else weights)
    if not grid or (len(grid) > 1 and grid[0] <= 0):
        raise ValueError(f"weights must be one number or several above 0, got {list(grid)}")
    options = {} if max_iter is None else {"max_iter": max_iter}
    maps = torch.ones_like(kspace) if smaps is None else smaps
    method, measurement = METHODS[name], Measurement(torch.where(mask, kspace, 0), mask, maps, 0.0)
    trials: dict[float, Trial] = {}
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    best_image, best_value = torch.empty(0), -float("inf")

    def attempt(weight: float) -> None:
        nonlocal best_image, best_value
        start = time.perf_counter()
        image = method.function(measurement, options=method.options(weight=weight, **options))  # type: ignore[call-arg]
        seconds = time.perf_counter() - start
        magnitude = torch.from_numpy(centre_crop(image.abs().cpu().numpy(), *reference.shape))
        values = evaluate(reference.cpu(), magnitude)
        trials[weight] = Trial(weight, values, seconds)
        if best_image.numel() == 0 or sign * values[metric] > best_value:
            best_image, best_value = image, sign * values[metric]

    for weight in grid:
        attempt(weight)
    for _ in range(max_extensions if len(grid) > 1 else 0):
        tried = sorted(trials)
        best = max(tried, key=lambda w: sign * trials[w].metrics[metric])
        if best == tried[0]:
            attempt(tried[0] ** 2 / tried[1])
        elif best == tried[-1]:
            attempt(tried[-1] ** 2 / tried[-2])
        else:
            break
    best = max(trials, key=lambda w: sign * trials[w].metrics[metric])
    return TunedBaseline(name, metric, best, best_image, tuple(trials[w] for w in sorted(trials)))
