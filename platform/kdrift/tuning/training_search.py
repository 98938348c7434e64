"""A search of a training's settings: its trials are short trainings, its winner is the configuration of a whole one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from kdrift.data.dataset import TrainingImages
from kdrift.recon.sampling import choose_device
from kdrift.runs.config import flatten, to_dict
from kdrift.runs.files import write_text
from kdrift.runs.hardware import keep_freed_memory, set_up
from kdrift.training.loop import Hooks, NonFiniteLossError, fit, new_state
from kdrift.training.objectives import held_out_images
from kdrift.training.provenance import datasets_of, describe_data, read_noise_left
from kdrift.training.train_config import TrainConfig
from kdrift.training.trainer import absolute
from kdrift.tuning.journal import TrialRecord
from kdrift.tuning.search_config import Trainable, start_point
from kdrift.tuning.training_config import MOST_NOISE_LEFT, TrainingSearchConfig

FOUND = "train.yaml"
"""The configuration that a search leaves in its folder."""


class TrainingSubject:
    """A training, cut short."""

    unit = "images"
    figures: tuple[str, ...] = ("noise_left", "psnr", "ssim", "loss", "seconds", "images", "diverged")

    def __init__(self, config: TrainingSearchConfig, out: Path) -> None:
        self._config, self._out = config, out
        # data that cannot be used are named before anything starts
        used = [TrainingImages(config.train.data, split, config.train.seed) for split in ("train", "validation")]
        self.notes = tuple(f"{each.split} images: {note}" for each in used for note in each.notes)
        self.datasets = datasets_of(describe_data(config.train.data))
        self.length = config.budget_images
        self.grace = config.grace_reports * (config.budget_images // config.num_reports)
        self.headline = f"the training {config.train.name}: {len(used[0])} slices, judged on {len(used[1])} held out"
        self.start = start_point(config.space, flatten(to_dict(config.train)))

    def begin(self) -> None:
        """Keep nothing: `config.yaml` has all of it."""

    def trainable(self) -> Trainable:
        """Return `run_training` with its configuration; workers read the images themselves."""
        from ray import tune as ray_tune

        config = replace(self._config, train=absolute(self._config.train))
        shared: Trainable = ray_tune.with_parameters(run_training, config=config)
        return shared

    def keep(self, trials: list[TrialRecord], best: TrialRecord, run_id: str) -> tuple[TrainConfig, list[Path]]:
        """Write the training with the settings of the best trial, as long as it was to be, to the search's folder."""
        config, path = self._config, self._out / FOUND
        found = absolute(config.with_settings(best.settings))
        before = f"{trials[0].value:.5g}" if trials[0].rows else "it failed"
        how = (
            f"# Found by the search {config.name} of kdrift tune (MLflow run {run_id}): trial {best.number} of"
            f" {len(trials)},\n# {config.objective} {best.value:.5g} after {config.budget_images} images;"
            f" with the settings that it started from {before}.\n"
        )
        write_text(path, how + yaml.safe_dump(to_dict(found), sort_keys=False))
        return found, [path]


def run_training(settings: dict[str, Any], *, config: TrainingSearchConfig) -> None:
    """Ray Tune's trainable: each validation goes to the scheduler, which may end the trial there."""
    from ray import tune as ray_tune

    keep_freed_memory()
    device = choose_device(config.device)
    set_up(device, max(1, int(config.cpus_per_trial)))
    train_briefly(config, settings, device, ray_tune.report)


def train_briefly(
    config: TrainingSearchConfig, settings: Mapping[str, Any], device: torch.device,
    report: Callable[[dict[str, Any]], object],
) -> None:  # fmt: skip
    """Train with these settings for the budget of a trial, and report a row of figures after each validation.

    A loss that is not finite, or a validation that is not, ends it with a row that says so, and the worst value.
    """
    train, began, loss = config.trial(settings), time.monotonic(), [math.nan]

    def row(images: int, value: float, **figures: float) -> dict[str, float]:
        seconds = time.monotonic() - began
        return {"value": value, config.objective: value, **figures, "seconds": seconds, "images": float(images)}

    def metrics(images: int, values: dict[str, float]) -> None:
        loss[0] = values.get("train/loss", loss[0])
        if (value := _judged(config.objective, values)) is None:
            return
        if not math.isfinite(value):
            raise NonFiniteLossError(f"{config.objective} is {value}")
        report(row(images, value, loss=loss[0], diverged=0.0))

    try:
        state, data = new_state(train, device), TrainingImages(train.data, "train", train.seed)
        fit(train, state, data, Hooks(metrics=metrics), validation=held_out_images(train), device=device)
    except NonFiniteLossError:
        report(row(config.budget_images, config.worst, diverged=1.0))


def _judged(objective: str, values: Mapping[str, float]) -> float | None:
    """Return the objective of the figures of a validation, None of other figures."""
    if objective != "noise_left":
        return values.get(f"validation/{objective}")
    left = [each.fraction for each in read_noise_left(values)]
    if not left:
        return None
    return min(math.exp(sum(math.log(max(each, 1e-12)) for each in left) / len(left)), MOST_NOISE_LEFT)
