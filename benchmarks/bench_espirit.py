"""ESPIRiT maps of a multi-coil volume: ours against sigpy, same calibration data, same number of threads.

Run `python -m benchmarks.bench_espirit [--quick]` from the repository's root.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import sigpy.mri
import torch

from benchmarks.table import main
from kdrift.mri.coils import espirit_maps
from kdrift.mri.fourier import fft2c

COMMAND = "python -m benchmarks.bench_espirit"


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes a small volume."""
    slices, coils, size = (2, 8, 160) if quick else (16, 15, 320)
    kspace = simulated_volume(slices, coils, size)
    box = (slice(size // 2 - 12, size // 2 + 12),) * 2

    def ours() -> torch.Tensor:
        return espirit_maps(kspace, acs=box)[0]

    def sigpys() -> torch.Tensor:
        return _sigpy_maps(kspace[0])

    ours()
    _sigpy_maps(simulated_volume(1, 2, 32)[0])  # compiles
    seconds, maps = _fastest(ours, 3)
    # A whole volume would take minutes, so one slice is timed.
    seconds_sigpy, reference = _fastest(sigpys, 3)
    per_slice = seconds / slices
    title = f"ESPIRiT {coils}x{size}x{size}, {torch.get_num_threads()} threads"
    return [
        {
            "name": f"{title}, a slice (volume of {slices})",
            "value": round(per_slice, 4),
            "unit": "s",
            "baseline": f"sigpy {seconds_sigpy:.2f} s a slice",
            "ratio": round(seconds_sigpy / per_slice, 1),
            "target": "> 1",
            "command": COMMAND,
        },
        {
            "name": f"{title}, RMS difference to sigpy in the support",
            "value": round(difference(maps, reference), 5),
            "unit": "1",
            "baseline": "sigpy",
            "ratio": None,
            "target": "< 0.01",
            "command": COMMAND,
        },
    ]


def simulated_volume(slices: int, coils: int, size: int) -> torch.Tensor:
    """Noisy k-space (slice, coil, row, col) of ellipses under smooth coil maps."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, size),) * 2, indexing="ij")
    angles = 2 * math.pi * torch.arange(coils) / coils
    distance = (y - 1.3 * angles.sin()[:, None, None]) ** 2 + (x - 1.3 * angles.cos()[:, None, None]) ** 2
    smaps = torch.polar(torch.exp(-distance), angles[:, None, None] + x - y)
    generator = torch.Generator().manual_seed(0)
    volume = []
    for index in range(slices):
        wide = 0.7 - 0.01 * index
        body = ((y / wide) ** 2 + (x / 0.6) ** 2 < 1).float()
        lesion = ((y - 0.2) ** 2 + (x + 0.1) ** 2 < 0.04).float()
        image = body * (1 + 0.3 * torch.cos(9 * x * y)) + 0.7 * lesion
        volume.append(fft2c(image * smaps))
    kspace = torch.stack(volume)
    return kspace + 0.01 * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)


def difference(maps: torch.Tensor, reference: torch.Tensor) -> float:
    """RMS over the common support of |S - S_ref| after alignment of one phase a pixel."""
    phase = torch.sgn((maps.conj() * reference).sum(0))
    both = (maps != 0).any(0) & (reference != 0).any(0)
    squared = (maps * phase - reference).abs().square().sum(0)
    return float(squared[both].mean().sqrt())


def _sigpy_maps(kspace: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(sigpy.mri.app.EspiritCalib(kspace.numpy(), show_pbar=False).run())


def _fastest(function: Callable[[], torch.Tensor], repeats: int) -> tuple[float, torch.Tensor]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


if __name__ == "__main__":
    main(run, __doc__)
