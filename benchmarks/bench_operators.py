"""A^H A of Cartesian SENSE against sigpy, mrpro, deepinv and plain torch, in one process and interleaved.

    python -m benchmarks.bench_operators [--quick] [--json FILE]

Every contender computes the same thing on the same data (checked first), is warmed up, and runs once in every
round, so that a disturbance of the machine meets them all; times are medians over the rounds and the ratio is
the median of the rounds' ratios to the fastest peer. It runs itself in the environment of peers_env.py, which
it makes where it is missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

COMMAND = "python -m benchmarks.bench_operators"
REPOSITORY = Path(__file__).resolve().parents[1]
NUM_THREADS = 2
TARGET = 1.5
NUM_COILS, ROWS, COLS = 15, 320, 320
# case: (mask, chains)
CASES = {"1-D equispaced mask": ("1d", 1), "2-D random mask": ("2d", 1), "1-D mask, 8 chains": ("1d", 8)}

_declared: list[Any] = []  # declarations end with the object that made them


def run(quick: bool = False) -> list[dict[str, Any]]:
    """One row a case: kdrift's milliseconds, the fastest peer's as baseline, and their ratio."""
    if all(importlib.util.find_spec(name) for name in ("kdrift", "sigpy", "mrpro", "deepinv")):
        return _measure(quick)
    from benchmarks import peers_env

    threads = {name: str(NUM_THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [str(peers_env.ensure()), "-m", "benchmarks.bench_operators", "--json", str(rows), "--no-table"]
        environment = {**os.environ, **threads, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'platform'}"}
        subprocess.run([*command, *(["--quick"] if quick else [])], check=True, env=environment)
        return json.loads(rows.read_text())


def _measure(quick: bool) -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(NUM_THREADS)
    rows = []
    for case, (mask_kind, num_chains) in CASES.items():
        contenders = _contenders(mask_kind, num_chains)
        expected = contenders["plain torch"]()
        for name, contender in contenders.items():
            found = contender()
            error = float((found - expected).norm() / expected.norm())
            if error > 1e-5:
                raise RuntimeError(f"{name} computes something else: relative difference {error:.1e}")
        times = _interleaved(contenders, (5 if quick else 40) if num_chains == 1 else (3 if quick else 12))
        ours = statistics.median(times["kdrift"])
        peers = {name: statistics.median(t) for name, t in times.items() if name != "kdrift"}
        best = min((name for name in peers if name != "plain torch"), key=lambda name: peers[name])
        ratio = statistics.median(p / k for p, k in zip(times[best], times["kdrift"], strict=True))
        rows.append(
            {
                "name": f"A^H A, {NUM_COILS}x{ROWS}x{COLS} complex64, {case}",
                "value": round(ours * 1e3, 2),
                "unit": "ms",
                "baseline": f"{best} {peers[best] * 1e3:.2f} ms",
                "ratio": round(ratio, 2),
                "target": TARGET,
                "command": COMMAND,
                "all_ms": {name: round(statistics.median(t) * 1e3, 2) for name, t in times.items()},
                "fastest_ms": {name: round(min(t) * 1e3, 2) for name, t in times.items()},
                "num_threads": NUM_THREADS,
            }
        )
    return rows


def _interleaved(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            contender()  # brings this contender's data and code back into the cache
            start = time.perf_counter()
            contender()
            times[name].append(time.perf_counter() - start)
    return times


def _contenders(mask_kind: str, num_chains: int) -> dict[str, Callable[[], Any]]:
    """``A^H A x`` by every library, each in its own layout and its fastest documented way."""
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)
    smaps = torch.randn(NUM_COILS, ROWS, COLS, dtype=torch.complex64, generator=generator)
    smaps = smaps / smaps.abs().square().sum(0).sqrt()
    if mask_kind == "1d":
        mask = torch.zeros(COLS, dtype=torch.bool)
        mask[::4] = True
        mask[COLS // 2 - 13 : COLS // 2 + 13] = True
        mask = mask.expand(ROWS, COLS)
    else:
        mask = torch.rand(ROWS, COLS, generator=generator) < 0.25
    x = torch.randn(num_chains, ROWS, COLS, dtype=torch.complex64, generator=generator)

    from kdrift.mri.sense import sense_operator

    ours = sense_operator(smaps, mask[0] if mask_kind == "1d" else mask)

    import sigpy as sp
    import sigpy.mri

    weights, images = mask.numpy().astype(np.float32), x.numpy()
    sense = sp.mri.linop.Sense(smaps.numpy(), weights=weights)
    normal = sense.H * sense

    _declare_torchvision_operators()
    operators = importlib.import_module("mrpro.operators")
    masking = importlib.import_module("mrpro.operators.CartesianSamplingOp").CartesianMaskingOp(
        mask[None, None].float()
    )
    fourier, coils = operators.FastFourierOp(dim=(-2, -1)), operators.SensitivityOp(smaps[None, :, None])
    gram = coils.H @ fourier.H @ masking @ fourier @ coils
    x_mrpro = x[:, None, None]

    physics = importlib.import_module("deepinv.physics").MultiCoilMRI(
        mask=mask.float(), coil_maps=smaps, img_size=(ROWS, COLS)
    )
    x_deepinv = torch.view_as_real(x).permute(0, 3, 1, 2).contiguous()

    def plain() -> torch.Tensor:
        axes = (-2, -1)
        spectrum = torch.fft.fft2(torch.fft.ifftshift(smaps * x[:, None], axes), norm="ortho")
        kspace = torch.fft.fftshift(spectrum, axes) * mask
        images = torch.fft.ifft2(torch.fft.ifftshift(kspace, axes), norm="ortho")
        return (smaps.conj() * torch.fft.fftshift(images, axes)).sum(1)

    def deepinv() -> torch.Tensor:
        return physics.A_adjoint_A(x_deepinv)

    return {
        "kdrift": partial(ours.normal, x),
        "sigpy": lambda: torch.from_numpy(np.stack([normal(image) for image in images])),
        "mrpro": lambda: gram(x_mrpro)[0][:, 0, 0],
        "deepinv": lambda: torch.complex(*deepinv().unbind(1)),
        "plain torch": plain,
    }


def _declare_torchvision_operators() -> None:
    """Let torchvision's Python part import beside a CPU build of torch, where its compiled part cannot load.

    Only the names of two detection operators are missing then; no operator measured here uses torchvision.
    """
    import torch

    if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--no-table", action="store_true", help="print nothing")
    args = parser.parse_args()
    rows = run(args.quick)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")
    if not args.no_table:
        names = list(rows[0]["all_ms"])
        print("median ms".ljust(52), *(name.rjust(12) for name in names), "ratio".rjust(7))
        for row in rows:
            print(row["name"].ljust(52), *(f"{row['all_ms'][n]:12.2f}" for n in names), f"{row['ratio']:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
