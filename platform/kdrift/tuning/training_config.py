"""Configuration of a search of a training's settings: the training, what of it is searched, and how long a trial is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdrift.runs.config import apply_settings, flatten, parse, to_dict
from kdrift.runs.hint import suggest
from kdrift.training.train_config import TrainConfig
from kdrift.tuning.search_config import SearchConfig, Subject, corners

SEARCHED = (
    "batch_size", "init_from", "network", "optimisation", "hardware.precision", "data.flip", "data.rot90",
    "data.min_foreground", "noise.log_sigma_mean", "noise.log_sigma_std", "noise.sde", "noise.sigma_min",
    "noise.sigma_max", "noise.beta_min", "noise.beta_max", "noise.t_min", "noise.attenuated.num_times",
    "noise.attenuated.antithetic", "noise.attenuated.coil_noise", "noise.attenuated.num_coils", "measurement.loss",
    "measurement.critic",
)  # fmt: skip
"""Settings and sections that a search may vary. All others decide what trials are judged on, or how long they are."""
JUDGED_WHEN_ATTENUATED = ("noise.sigma_min", "noise.sigma_max")
"""Under noise.kind attenuated these say what held-out images are attenuated by."""
MOST_NOISE_LEFT = 10.0
"""`noise_left` of a training that diverged, and the most that any is given."""


@dataclass(frozen=True, kw_only=True)
class TrainingSearchConfig(SearchConfig[TrainConfig]):
    """A search of a training's settings; it leaves the configuration of a training."""

    train: TrainConfig
    """The training, complete, as in configs/train. Its settings, moved into the space, are the first trial; what is
    searched replaces them in the winner. `data.validation` names the volumes that trials are judged on."""
    budget_images: int = 20_000
    """Length of a trial in training images; warm-up and half-life are of `train`, unless they are searched."""
    num_reports: int = 5
    """How often a trial is judged, evenly over its images; each time the others may end it."""
    grace_reports: int = 1
    """A trial is not stopped before so many of them (ASHA)."""
    objective: Literal["noise_left", "psnr", "ssim"] = "noise_left"
    """What the search improves on held-out images: the fraction of the noise's power that denoising leaves, geometric
    mean over `train.monitoring.validation_sigmas`; of a network that reconstructs, `psnr` or `ssim`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.grace_reports <= self.num_reports <= self.budget_images:
            raise ValueError(
                "expected 1 <= grace_reports <= num_reports <= budget_images, got"
                f" {self.grace_reports}, {self.num_reports} and {self.budget_images}"
            )
        if (self.objective == "noise_left") == bool(self.train.network.reconstructs):
            fitting = "psnr or ssim" if self.train.network.reconstructs else "noise_left"
            raise ValueError(
                f"objective is {self.objective}, and train.network.architecture {self.train.network.architecture} is"
                f" judged by {fitting}"
            )
        monitoring = self.train.monitoring
        if not self.train.data.validation or monitoring.validation_images < 1 or not monitoring.validation_sigmas:
            raise ValueError(
                "trials are judged on held-out volumes: name them in train.data.validation, with"
                " train.monitoring.validation_images and validation_sigmas"
            )
        known = flatten(to_dict(self.train))
        for name in self.space:
            if name not in known:
                raise ValueError(f"space: a training has no setting {name!r}{suggest(name, known)}")
            attenuated = self.train.noise.kind == "attenuated" and name in JUDGED_WHEN_ATTENUATED
            if attenuated or not any(name == each or name.startswith(f"{each}.") for each in SEARCHED):
                raise ValueError(
                    f"space: {name} decides what trials are judged on, or how long they are; a search varies"
                    f" {', '.join(SEARCHED)}"
                )
        for values, where in corners(self.space):
            self.with_settings(values, where)

    @property
    def measure(self) -> str:
        """The objective."""
        return self.objective

    @property
    def higher_is_better(self) -> bool:
        """Whether the objective is maximised."""
        return self.objective != "noise_left"

    @property
    def worst(self) -> float:
        """The value of a training that diverged."""
        return MOST_NOISE_LEFT if self.objective == "noise_left" else 0.0

    def with_settings(self, settings: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
        """Return the training with other settings, by dotted names. Raises ValueError where they make no training."""
        values = to_dict(self.train)
        apply_settings(values, settings)
        return parse(TrainConfig, values, where)

    def trial(self, settings: Mapping[str, Any]) -> TrainConfig:
        """Return the training that a trial runs: short, judged often, without pictures."""
        every = self.budget_images // self.num_reports
        config = self.with_settings(settings)
        monitoring = replace(
            config.monitoring, log_every_images=every, validate_every_images=every, num_samples=0
        )  # fmt: skip
        return replace(config, total_images=self.budget_images, monitoring=monitoring)

    def subject(self, out: Path) -> Subject[TrainConfig]:
        """Return the training on its images."""
        from kdrift.tuning.training_search import TrainingSubject

        return TrainingSubject(self, out)
