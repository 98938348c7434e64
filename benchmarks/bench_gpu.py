"""What kdrift does on a GPU: the default reconstruction of a knee slice, and training of Score-MRI's full network.

    python -m benchmarks.bench_gpu [--quick] [--json FILE]     # without a GPU it says so and measures nothing

`--quick` takes small sizes, and the CPU where there is no GPU, to see that it runs. All is warmed up; the device is
waited for before each look at the clock. Busy is the share of the sampling that the network takes on the device. Of the
pieces of a step, "asked for" is how long the host takes to start the work, without waiting: where that is most of the
whole, the device is kept waiting, and fewer operations are what helps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.table import main
from kdrift.data.phantom import phantom_volume
from kdrift.mri.coils import espirit_maps
from kdrift.mri.masks import make_mask
from kdrift.mri.sense import sense_operator
from kdrift.networks import build_network
from kdrift.prior.bundle import load_prior
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.config import load_config
from kdrift.runs.config_names import find_config
from kdrift.runs.counter_noise import complex_normal, key_words
from kdrift.runs.stopwatch import now
from kdrift.training.cost import training_cost
from kdrift.training.train_config import TrainConfig

COMMAND = "python -m benchmarks.bench_gpu"
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Dense bfloat16 peaks as NVIDIA states them, by what is in a device's name."""
STEPS = 10


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table."""
    if not torch.cuda.is_available() and not quick:
        print("no GPU: nothing was measured")
        return []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [*reconstruction(device, quick), *pieces(device, quick), *training(device, quick)]


def reconstruction(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Time the default with 8 samples on 15 coils of 320 x 320 at 4x, without and with its maps and check."""
    kspace, mask, samples = _scan(quick)
    coils, size = kspace.shape[1:3]
    rows = []
    for name, plan in (
        ("ESPIRiT's maps, no check", Plan(num_samples=samples, maps="espirit", check=False)),
        ("as it comes", Plan(num_samples=samples)),
    ):
        plan = replace(plan, settings={"num_steps": 4}) if quick else plan
        for _ in range(1 if quick else 2):  # the first warms up
            began = now(device)
            result = reconstruct(kspace, mask, plan=plan, device=device)
            seconds = now(device) - began
        stages = result.stages
        busy = stages["network"] / (stages["network"] + stages["sampler"])
        what = f"{samples} samples, {coils} x {size} x {size}, {name}"
        rows.append(_row(what, seconds, "s", "<= 1 (H200), <= 1.5 (H100)" if "no check" in name else ""))
        rows.append(_row(f"share of the network in it, {name}", busy, ""))
    return rows


def _scan(quick: bool) -> tuple[Tensor, Tensor, int]:
    """Return k-space `(1, coil, row, col)` of a phantom, a mask, and how many samples are drawn."""
    size, coils, samples = (48, 4, 2) if quick else (320, 15, 8)
    mask = make_mask("equispaced", (size, size), acceleration=4, acs_fraction=0.2 if quick else 0.08).mask
    return torch.from_numpy(phantom_volume(1, size, size, coils, seed=0).kspace), torch.as_tensor(mask), samples


def pieces(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Time what a step of the default is made of, by itself: network, solve, operator, noise; and ESPIRiT."""
    volume, mask, samples = _scan(quick)
    kspace, (coils, size) = volume[0].to(device), volume.shape[1:3]
    operator = sense_operator(espirit_maps(kspace), mask.to(device))
    score = load_prior("brain-complex", device).score()
    x = torch.randn(samples, size, size, dtype=torch.complex64, device=device)
    keys = key_words(range(samples), device)
    works: dict[str, Callable[[], object]] = {
        "network": lambda: score(x, 0.1),
        "solve, 12 steps": lambda: operator.solve_normal(x, 0.01, max_iter=12, tol=0.0),
        "A^H A": lambda: operator.normal(x),
        "noise of images": lambda: complex_normal(keys, 3, size * size),
        "noise of k-space": lambda: complex_normal(keys, 3, coils * int(mask.sum())),
        "ESPIRiT's maps": lambda: espirit_maps(kspace),
    }
    rows = []
    for name, work in works.items():
        for _ in range(2):
            work()
        began, asked = now(device), 0.0
        for _ in range(STEPS):
            started = time.perf_counter()
            work()
            asked += time.perf_counter() - started
        seconds = (now(device) - began) / STEPS
        row = _row(f"{name}, {samples} samples, {coils} x {size} x {size}", 1e3 * seconds, "ms")
        rows.append(row | {"baseline": f"asked for in {1e3 * asked / STEPS:.2f} ms"})
    return rows


def training(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Time steps of two networks at the fastMRI configurations' size, forward, backward and update, in bfloat16."""
    rows = []
    for name, batch in (("fastmri_knee_edm", 32), ("fastmri_knee_score_mri", 8)):
        small = ["data.crop=16", "network.ncsnpp.nf=8", "network.ncsnpp.ch_mult=[1, 2]"] if quick else []
        config = load_config(TrainConfig, find_config("train", name), small)
        rate = _images_per_second(config, 2 if quick else batch, device, 1 if quick else STEPS)
        sustained = rate * training_cost(config).flop / 1e12
        peak = next((peak for word, peak in PEAK_TFLOPS.items() if word in _name(device)), None)
        rows.append(_row(f"training {name}, batch {batch}", rate, "images/s"))
        ratio = {"baseline": peak, "ratio": sustained / peak if peak else None}
        rows.append(_row(f"of it TFLOP/s, {name}", sustained, "TFLOP/s", ">= 0.5 of the peak") | ratio)
    return rows


def _images_per_second(config: TrainConfig, batch: int, device: torch.device, steps: int) -> float:
    network = build_network(config.network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adam = torch.optim.AdamW(network.parameters())
    side, levels = config.data.crop, torch.full((batch,), 0.3, device=device)
    images = torch.randn(batch, config.network.channels, side, side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    began = 0.0
    for number in range(steps + 3):  # three warm up
        if number == 3:
            began = now(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = network(images, levels).float().square().mean()
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
    return batch * steps / (now(device) - began)


def _row(name: str, value: float, unit: str, target: str = "") -> dict[str, Any]:
    row = {"name": name, "value": value, "unit": unit, "baseline": None, "ratio": None}
    return {**row, "target": target, "command": COMMAND}


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    print(
        time.strftime("%Y-%m-%d"), torch.__version__, _name(torch.device("cuda")) if torch.cuda.is_available() else ""
    )
    main(run, (__doc__ or "").partition("\n")[0])
