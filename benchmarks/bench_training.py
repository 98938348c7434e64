"""A training step: ours (bfloat16 where native, channels_last, tuned malloc) against a plain float32 loop; and how
long a checkpoint stops the training, against writing it at once.

Same network, batch, loss and threads. Each variant runs in a process of its own, because malloc is set
up once a process; the rounds alternate. Run `python benchmarks/bench_training.py [--quick]` from the root.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrift.networks import build_network
from kdrift.runs.config import parse
from kdrift.runs.hardware import worker_environment
from kdrift.sde.white_noise import draw_white, edm_loss
from kdrift.training.checkpoint import save_checkpoint
from kdrift.training.checkpoint_writer import CheckpointWriter
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.train_config import HardwareConfig, TrainConfig

COMMAND = "python benchmarks/bench_training.py"
NETWORKS = {
    # name: (nf, ch_mult, blocks, size, batch)
    "small (nf 32, 96x96, batch 8)": (32, [1, 1, 2, 4], 1, 96, 8),
    "medium (nf 64, 128x128, batch 4)": (64, [1, 2, 2, 2], 2, 128, 4),
}
VARIANTS = ("plain", "ours", "compiled")


class RandomImages:
    """Images that cost nothing to load."""

    def __init__(self, size: int) -> None:
        self._images = torch.rand(16, 1, size, size)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return `(batch, 1, size, size)`."""
        return self._images[[index % 16 for index in indices]]


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes the small network, few steps and no compilation."""
    names = list(NETWORKS)[:1] if quick else list(NETWORKS)
    variants = VARIANTS[:2] if quick else VARIANTS
    rows = []
    for name in names:
        seconds: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(1 if quick else 3):
            for variant in variants:
                seconds[variant] += _in_process(variant, name, 4 if quick else 8)
        plain = statistics.median(seconds["plain"])
        for variant in variants[1:]:
            ours = statistics.median(seconds[variant])
            rows.append(
                {
                    "name": f"training step, {name}, {variant}, {torch.get_num_threads()} threads",
                    "value": round(ours * 1e3, 1),
                    "unit": "ms",
                    "baseline": f"plain float32 loop {plain * 1e3:.1f} ms",
                    "ratio": round(plain / ours, 2),
                    "target": ">= 2.5",
                    "command": COMMAND,
                }
            )
        rows.append(_stall(name, rounds=3 if quick else 9))
    return rows


def _stall(name: str, rounds: int) -> dict[str, Any]:
    """How long the training stands still for a checkpoint, of this network trained for one step."""
    config, size = _config(name, compiled=False)
    state = new_state(config, torch.device("cpu"))
    once = replace(config, total_images=config.batch_size)
    fit(once, state, RandomImages(size), Hooks(), device=torch.device("cpu"))  # the optimiser's state is there
    waits: dict[str, list[float]] = {"at once": [], "behind": []}
    with tempfile.TemporaryDirectory(prefix="kdrift-bench-") as folder:

        def write(content: dict[str, Any], images: int) -> None:
            save_checkpoint(Path(folder), content, images=images, keep=2)

        with CheckpointWriter(write) as writer:
            for number in range(2 * rounds):
                started = time.perf_counter()
                (writer.submit if number % 2 else write)(state.state_dict(), number)
                waits["behind" if number % 2 else "at once"].append(time.perf_counter() - started)
                writer.wait()
        megabytes = (Path(folder) / f"images_{2 * rounds - 1:012d}" / "state.pt").stat().st_size / 1e6
    at_once, behind = (statistics.median(values) for values in waits.values())
    return {
        "name": f"stop of the training for a checkpoint of {megabytes:.0f} MB, {name}",
        "value": round(behind * 1e3, 1),
        "unit": "ms",
        "baseline": f"written at once {at_once * 1e3:.1f} ms",
        "ratio": round(at_once / behind, 1),
        "target": ">= 5",
        "command": COMMAND,
    }


def _in_process(variant: str, name: str, steps: int) -> list[float]:
    environment = dict(os.environ)
    if variant != "plain":
        environment |= worker_environment(torch.get_num_threads())
    command = [sys.executable, __file__, "--variant", variant, "--network", name, "--steps", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{variant} on {name} failed: {done.stderr.strip().splitlines()[-1]}")
    return list(json.loads(done.stdout.splitlines()[-1]))


def time_steps(variant: str, name: str, steps: int) -> list[float]:
    """Seconds of each of `steps` steps after three that warm up."""
    config, size = _config(name, compiled=variant == "compiled")
    config = replace(config, total_images=config.batch_size * (steps + 3))
    times = [time.perf_counter()]

    def tick(*_: Any) -> None:
        times.append(time.perf_counter())

    if variant == "plain":
        _plain_loop(config, RandomImages(size), tick)
    else:

        def wrap(network: torch.nn.Module) -> torch.nn.Module:
            if config.hardware.compile:
                network.compile()
            return network

        device = torch.device("cpu")
        fit(
            config,
            new_state(config, device),
            RandomImages(size),
            Hooks(progress=tick),
            device=device,
            wrap=wrap,
        )
    return [after - before for before, after in pairwise(times)][3:]


def _plain_loop(config: TrainConfig, data: RandomImages, tick: Callable[[], None]) -> None:
    """The loop that one writes first: float32, NCHW, no prefetch."""
    network = build_network(config.network)
    ema = copy.deepcopy(network)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    sigma_data = config.network.sigma_data
    for start in range(0, config.total_images, config.batch_size):
        indices = range(start, start + config.batch_size)
        image = data.batch(indices)
        sigma, noise = draw_white(config.noise, "edm", 0, indices, image.shape[1:])
        optimizer.zero_grad()
        loss = edm_loss(network, image, sigma, noise, sigma_data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for average, weight in zip(ema.parameters(), network.parameters(), strict=True):
                average.lerp_(weight, 1e-3)
        tick()


def _config(name: str, compiled: bool) -> tuple[TrainConfig, int]:
    nf, ch_mult, blocks, size, batch = NETWORKS[name]
    ncsnpp = {
        "image_size": size, "nf": nf, "ch_mult": ch_mult, "num_res_blocks": blocks, "attn_resolutions": [],
        "middle_attention": False, "centered": True, "scale_by_sigma": False,
    }  # fmt: skip
    values = {
        "data": {"stores": ["unused"], "crop": size},
        "network": {"preconditioning": "edm", "ncsnpp": ncsnpp},
        "batch_size": batch,
        "monitoring": {"log_every_images": 10**9, "validate_every_images": 10**9},
        "checkpoint": {"every_images": 10**9},
    }
    return replace(parse(TrainConfig, values), hardware=HardwareConfig(compile=compiled)), size


def main() -> None:
    """Print the rows, or, in a process of its own, the times of one variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=list(NETWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=8, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(time_steps(arguments.variant, arguments.network, arguments.steps)))
    else:
        print(json.dumps(run(arguments.quick), indent=1))


if __name__ == "__main__":
    main()
