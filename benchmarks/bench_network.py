"""NCSN++ forward pass: ours (bfloat16 where native, channels_last, kept memory) against float32 NCHW.

Same weights and input. The second row checks that precision costs no quality: a reconstruction with either, PSNR apart.
Run `python -m benchmarks.bench_network [--quick]` from the root.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.table import main
from kdrift.data.phantom import phantom_volume
from kdrift.measures.metrics import psnr
from kdrift.mri.masks import make_mask
from kdrift.networks import NCSNpp, NCSNppConfig
from kdrift.prior.network_score import NetworkScore
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.hardware import keep_freed_memory

COMMAND = "python -m benchmarks.bench_network"


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes 96x96 instead of 320x320."""
    keep_freed_memory()
    return [forward(96 if quick else 320, 1 if quick else 3), precision(quick)]


def forward(size: int, rounds: int) -> dict[str, Any]:
    """Time Score-MRI's full network on one real image, both ways in turn."""
    torch.manual_seed(0)
    plain = NCSNpp(NCSNppConfig()).eval()
    score = NetworkScore(copy.deepcopy(plain), returns="score", size_multiple=8)
    x, sigma = torch.rand(1, 1, size, size), torch.tensor([0.5])

    @torch.no_grad()
    def published() -> None:
        plain(x, sigma)

    def ours() -> None:
        score(x[0], 0.5)

    seconds = [[_time(f) for f in (published, ours)] for _ in range(rounds + 1)][1:]
    return {
        "name": f"NCSN++ forward, 61.4 M parameters, {size}x{size}",
        "value": statistics.median(pair[1] for pair in seconds),
        "unit": "s",
        "baseline": statistics.median(pair[0] for pair in seconds),
        "ratio": statistics.median(pair[0] / pair[1] for pair in seconds),
        "target": ">= 3.5",
        "command": COMMAND,
    }


def precision(quick: bool) -> dict[str, Any]:
    """PSNR of the shipped prior's reconstruction of a phantom in `auto` and in `float32`."""
    size = 64 if quick else 192
    phantom = phantom_volume(num_slices=1, rows=size, cols=size, num_coils=4, seed=3)
    kspace = torch.from_numpy(phantom.kspace)
    mask = make_mask("equispaced", (size, size), acceleration=3, acs_fraction=0.1).mask
    truth = reconstruct(kspace, None, plan=Plan(method="zero_filled")).mean

    def quality(precision: Any) -> float:
        plan = Plan(num_samples=2, precision=precision)
        return psnr(truth, reconstruct(kspace, mask, plan=plan).mean)

    fast, exact = quality("auto"), quality("float32")
    return {
        "name": f"reconstruction PSNR, bfloat16 - float32 ({size}x{size} phantom, simulated)",
        "value": fast,
        "unit": "dB",
        "baseline": exact,
        "ratio": fast - exact,
        "target": "difference within 0.05",
        "command": COMMAND,
    }


def _time(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(run, __doc__ or "")
