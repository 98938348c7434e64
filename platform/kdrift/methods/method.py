"""What a method says of itself and of its settings, and what the table of methods asks of it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, get_args

from torch import Tensor, nn

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import IMAGES, Callback, Chains, Measurement
from kdrift.networks import RECONSTRUCTORS, Images
from kdrift.sde import Noise, Task
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class Options:
    """Settings of a method, each with its default; those of a classical method leave `evaluations` at 0."""

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain, at most: the only statement of what a method costs."""
        return 0

    @property
    def draws(self) -> bool:
        """Whether chains draw with the whole spread; those that do not have been tuned for the mean."""
        return True

    @property
    def keeps_noise(self) -> bool:
        """Whether all samples keep what was measured as it was measured, with the same noise."""
        return False


@dataclass(frozen=True)
class StartOptions(Options):
    """Settings of a method that can start from another reconstruction, `Measurement.start`."""

    num_steps: int = 100
    """N, steps of the whole schedule."""
    start_time: float = 1.0
    """t_0: the last t_0 N of the N steps are done, from x_0 + sigma z, x_0 the start and sigma the first level of those
    steps (CCDF; Score-MRI Algorithm 6). Below 1 a start is needed."""

    def __post_init__(self) -> None:
        if self.num_steps < 2:
            raise ValueError(f"expected num_steps >= 2, got {self.num_steps}")
        if not 0 < self.start_time <= 1:
            raise ValueError(f"expected 0 < start_time <= 1, got {self.start_time}")

    @property
    def steps_done(self) -> int:
        """N' = t_0 N, rounded, at least 1."""
        return max(1, round(self.start_time * self.num_steps))

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a step."""
        return self.steps_done

    def steps_left(self, measurement: Measurement) -> int:
        """Return how many steps are to do. Raises ValueError for t_0 below 1 without a start."""
        if self.start_time < 1 and measurement.start is None:
            raise ValueError(f"start_time {self.start_time} leaves out steps and needs a start, got none")
        return self.steps_done


class Sampler(Protocol):
    """A posterior sampler: makes samples from the score, the SDE of the noise that the prior removes, and the data."""

    def __call__(
        self,
        score: ScoreModel,
        sde: Any,
        measurement: Measurement,
        *,
        rng: ChainNoise,
        options: Any,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return samples `(sample, *parts, row, col)`, parts as the method's chains have them."""
        ...


class Learned(Protocol):
    """A reconstruction by a network that was trained to reconstruct: one image."""

    def __call__(self, network: nn.Module, measurement: Measurement, *, options: Any) -> Tensor:
        """Return one image `(row, col)`."""
        ...


class Classical(Protocol):
    """A reconstruction without a prior, from the data alone."""

    def __call__(self, measurement: Measurement, *, options: Any) -> Tensor:
        """Return one image `([set,] row, col)`, or coil images `(coil, row, col)` where the chains are coil images."""
        ...


@dataclass(frozen=True)
class Method:
    """One entry of the table: what is called, its settings and presets, and what it needs.

    Raises TypeError for what the table cannot use, with what was expected.
    """

    function: Callable[..., Tensor]
    """A `Sampler`, a `Learned` or a `Classical`, by what it needs."""
    presets: Mapping[str, Options]
    """Named settings, all of one frozen dataclass; see `preset` for the one that is used where none is named."""
    summary: str
    """One line for people."""
    chains: Chains = IMAGES
    """What one sample is made of, or the image of a classical method."""
    needs: Task | None = "white"
    """What its network was trained for: a noise makes it a sampler, an architecture a learned reconstruction; None: it
    has no network and is a classical method."""
    images: Images = "complex"
    """Kind of images of the shipped prior that it takes where none is named."""
    only: Images | None = None
    """Kind of images that its prior must be of; None: either kind can serve it."""
    max_map_sets: int = 2
    """Sets of coil maps that it can use."""
    spread: Options | None = None
    """Settings that draw samples with the whole spread, beside chains of a preset that does not (`Options.draws`)."""
    through_network: bool = False
    """Whether its steps differentiate the network; such calls share no batch with those of other work."""
    fits_data: bool = True
    """Whether its images explain the data, so that a large data residual is a warning."""

    def __post_init__(self) -> None:
        name = getattr(self.function, "__name__", repr(self.function))
        protocol = Classical if self.needs is None else Sampler if self.samples else Learned
        _check_signature(self.function, protocol, name)
        kinds = {type(preset) for preset in self.presets.values()}
        if len(kinds) != 1 or not all(dataclasses.is_dataclass(k) and issubclass(k, Options) for k in kinds):
            names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
            raise TypeError(f"{name}: presets must be of one dataclass of Options, got {names}")
        for preset, options in self.presets.items():
            if (options.evaluations > 0) != (self.needs is not None):
                wanted = "0: it has no network" if self.needs is None else "above 0"
                raise TypeError(f"{name}: evaluations of preset {preset} are {options.evaluations}, expected {wanted}")
        if self.spread is not None and (type(self.spread) not in kinds or not self.spread.draws):
            raise TypeError(f"{name}: spread must be settings of the method that draw, got {self.spread!r}")
        if not isinstance(self.chains, Chains) or not self.summary:
            raise TypeError(
                f"{name}: expected chains of type Chains and a summary, got {self.chains!r}, {self.summary!r}"
            )

    @property
    def options(self) -> type[Options]:
        """The dataclass of its settings."""
        return type(next(iter(self.presets.values())))

    @property
    def needs_prior(self) -> bool:
        """Whether it needs a network: a prior, or one that reconstructs."""
        return self.needs is not None

    @property
    def samples(self) -> bool:
        """Whether it is a sampler; any other method makes one image, or one a coil."""
        return self.noise is not None

    @property
    def has_steps(self) -> bool:
        """Whether it has a number of steps, the setting `num_steps`."""
        return any(each.name == "num_steps" for each in fields(self.options))

    @property
    def noise(self) -> Noise | None:
        """The noise that a sampler's prior removes; None: it is no sampler."""
        return next((kind for kind in get_args(Noise) if kind == self.needs), None)

    def check_map_sets(self, sets: int, name: str) -> None:
        """Raise ValueError for more sets of coil maps than the method, called `name` in the error, can use."""
        if sets > self.max_map_sets:
            raise ValueError(f"{name} takes one set of coil maps, got {sets}")

    @property
    def wanted(self) -> str:
        """What it needs, in words."""
        return _in_words(self.needs)

    def refusal(self, name: str, task: Task, images: Images | None) -> str:
        """Say why the prior `name` of this task and these images cannot serve it; empty where it can."""
        if task != self.needs:
            known = f"is {_in_words(task)}" if task in RECONSTRUCTORS else f"was trained on {task} noise"
            return f"needs {self.wanted}, {name} {known}"
        if images is not None and self.only not in (None, images):
            return f"needs a prior of {self.only} images, {name} is of {images} images"
        return ""

    def preset(self, name: str | None) -> tuple[str, Options]:
        """Return the name and the settings of a preset.

        None: the first that the method has of `tuned`, `stable`, `paper` and the others.
        """
        name = name or next(known for known in ("tuned", "stable", "paper", *self.presets) if known in self.presets)
        if name not in self.presets:
            raise ValueError(f"no preset {name!r}; there are {', '.join(self.presets)}")
        return name, self.presets[name]


def _in_words(task: Task | None) -> str:
    if task is None:
        return "no prior"
    return f"a {task} that reconstructs" if task in RECONSTRUCTORS else f"a prior trained on {task} noise"


def _check_signature(function: Callable[..., Tensor], protocol: type, name: str) -> None:
    """Compare the parameters of a function with those of the protocol's call, but for their annotations."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise TypeError(f"{name} is no function with a signature") from None
    wanted = [p for p in inspect.signature(protocol.__call__).parameters.values() if p.name != "self"]
    if [(p.name, p.kind) for p in found] != [(p.name, p.kind) for p in wanted]:
        expected = ", ".join(p.name if p.kind is not p.KEYWORD_ONLY else f"{p.name}=" for p in wanted)
        got = ", ".join(p.name if p.kind is not p.KEYWORD_ONLY else f"{p.name}=" for p in found)
        raise TypeError(f"{name} must be called as {name}({expected}), got {name}({got})")
