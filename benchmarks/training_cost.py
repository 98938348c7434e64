"""What the fastMRI configurations cost to train: parameters, FLOPs and memory of an image, and hours that follow.

`python -m benchmarks.training_cost` counts on tensors without storage, at the configurations' own size. Hours are
estimates: FLOPs of all images over a rate that was sustained elsewhere (`RATES`). `kdrift plan` does it for one
configuration and cluster.
"""

from __future__ import annotations

from pathlib import Path

from kdrift.runs.config import load_config
from kdrift.training.cost import training_cost
from kdrift.training.train_config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "train"
RATES = {"RTX 3090": 8.6, "H200": 30.0}
"""TFLOP/s sustained. RTX 3090: Score-MRI's own training, 2.5 million images in three weeks (its section 4.2). H200:
`brain_complex_long`, 10,600 TFLOP in 353 s (bfloat16, compiled); larger networks keep a GPU busier."""


def table(names: list[str]) -> str:
    """Return the costs of configurations as a Markdown table."""
    hours = " | ".join(f"{name} hours" for name in RATES)
    lines = [
        f"| configuration | parameters | TFLOP an image | GiB a batch (float32) | images | {hours} |",
        "|---" * (5 + len(RATES)) + "|",
    ]
    for name in names:
        config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
        one = training_cost(config)
        total = one.flop / 1e12 * config.total_images
        memory = (one.activation_bytes * config.batch_size + one.model_bytes) / 2**30
        took = " | ".join(f"{total / rate / 3600:.0f}" for rate in RATES.values())
        counts = f"{one.parameters / 1e6:.1f} M | {one.flop / 1e12:.2f} | {memory:.0f} | {config.total_images:,}"
        lines.append(f"| `{name}` | {counts} | {took} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sorted(path.stem for path in CONFIGS.glob("fastmri_*.yaml"))))
    long = load_config(TrainConfig, CONFIGS / "brain_complex_long.yaml")
    print(f"\nbrain_complex_long: {training_cost(long).flop / 1e12 * long.total_images:.0f} TFLOP in all")
