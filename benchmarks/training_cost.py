"""What the fastMRI configurations cost to train: parameters, FLOPs and memory of an image, and hours that follow.

`python -m benchmarks.training_cost` counts on tensors without storage, at the configurations' own size. Hours are
estimates: FLOPs of all images over a rate that was sustained elsewhere (`RATES`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdrift.networks import build_network
from kdrift.runs.config import load_config
from kdrift.training.train_config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "train"
RATES = {"RTX 3090": 8.6, "H200": 30.0}
"""TFLOP/s sustained. RTX 3090: Score-MRI's own training, 2.5 million images in three weeks (its section 4.2). H200:
`brain_complex_long`, 10,600 TFLOP in 353 s (bfloat16, compiled); larger networks keep a GPU busier."""


def cost(config: TrainConfig) -> dict[str, float]:
    """Return parameters in millions, and of one training image TFLOP (forward and backward) and GiB of activations.

    Activations are what the backward pass keeps, in float32; weights, gradients, moving average and Adam's two moments
    take 20 bytes a parameter besides. An image of `noise.attenuated` is its coil images.
    """
    side = config.data.crop
    with torch.device("meta"):
        network = build_network(config.network)
        image, level = torch.empty(1, config.network.channels, side, side), torch.empty(1)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        torch.autograd.backward(network(image, level).sum())
    count = sum(parameter.numel() for parameter in network.parameters())
    times = config.noise.attenuated.num_coils if config.noise.kind == "attenuated" else 1
    return {
        "million_parameters": count / 1e6,
        "tflop": times * counter.get_total_flops() / 1e12,
        "gib": times * sum(each.nbytes() for key, each in kept.items() if key not in weights) / 2**30,
    }


def table(names: list[str]) -> str:
    """Return the costs of configurations as a Markdown table."""
    hours = " | ".join(f"{name} hours" for name in RATES)
    lines = [
        f"| configuration | parameters | TFLOP an image | GiB a batch (float32) | images | {hours} |",
        "|---" * (5 + len(RATES)) + "|",
    ]
    for name in names:
        config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
        one = cost(config)
        total = one["tflop"] * config.total_images
        memory = one["gib"] * config.batch_size + 20e6 * one["million_parameters"] / 2**30
        took = " | ".join(f"{total / rate / 3600:.0f}" for rate in RATES.values())
        counts = f"{one['million_parameters']:.1f} M | {one['tflop']:.2f} | {memory:.0f} | {config.total_images:,}"
        lines.append(f"| `{name}` | {counts} | {took} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sorted(path.stem for path in CONFIGS.glob("fastmri_*.yaml"))))
    long = load_config(TrainConfig, CONFIGS / "brain_complex_long.yaml")
    print(f"\nbrain_complex_long: {cost(long)['tflop'] * long.total_images:.0f} TFLOP in all")
