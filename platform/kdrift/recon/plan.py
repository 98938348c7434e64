"""What to run on a slice: a plan of names and numbers, which is resolved once, at the entrance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from kdrift.methods import METHODS, Options, StartOptions
from kdrift.methods.presets import Preset, find_preset
from kdrift.prior.bundle import Prior, load_prior, shipped_for
from kdrift.prior.calibration import Calibration
from kdrift.recon.resolved import CHECKED, ResolvedPlan, UsedPrior
from kdrift.runs.config import parse
from kdrift.runs.hint import suggest

DEFAULT_METHOD = "annealed"
DEFAULT_PRIOR = "brain-complex"


@dataclass(frozen=True)
class Plan:
    """What to run: method, preset, settings, number of samples, seed."""

    method: str = DEFAULT_METHOD
    """Sampler, learned or classical method."""
    preset: str | Preset | None = None
    """Named settings of the method: a built-in name, a name of your own or FILE.yaml (kdrift list presets). By default
    what kdrift presets use has chosen, else the first there is of tuned, stable and paper."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Overrides of the preset's settings by name."""
    num_samples: int = 8
    """Posterior samples a slice; any other method gives one image."""
    seed: int = 0
    """Seed of the samples."""
    batch_samples: int = 8
    """Samples that run as one batch; bounds memory, never changes an answer."""
    keep_samples: bool = False
    """Also give every sample back."""
    on_divergence: Literal["error", "fallback"] = "error"
    """What happens where all samples of a slice diverge: an error that names the slice, or CG-SENSE in its place,
    labelled."""
    precision: Literal["auto", "float32"] = "auto"
    """`auto`: the network runs in bfloat16 where the hardware computes in it natively."""
    maps: Literal["joint", "espirit"] = "joint"
    """Coil maps: `espirit`, from the ACS; `joint`, which goes on from these and fits them together with the image, with
    the plan's prior, for samplers whose prior is of complex images and white noise (others have those of ESPIRiT)."""
    num_map_sets: int | None = None
    """ESPIRiT map sets, 1 or 2; null: two where the calibration lines show a second signal in the pixels, as of an
    object wider than the field of view, and the method takes two."""
    map_crop: float = 0.0
    """ESPIRiT maps are zero where their eigenvalue is not above this, those of a second set where it is not above 0.8
    either; 0 keeps the background, as RSS images do."""
    map_threshold: float = 0.02
    """Singular values of the calibration matrix below this fraction of the largest are null space."""
    check: bool | None = None
    """Whether some measured samples are held out from a few extra chains, to scale the standard deviation and to judge
    the image; null: where there are two samples or more, of at most 100 evaluations each."""
    on_mistrust: Literal["keep", "fallback"] = "keep"
    """What is given of a slice that is not trusted: the mean nevertheless, or the image of the classical method that
    predicted held-out samples best, labelled."""
    level: float = 0.9
    """Nominal share of pixels within the intervals `lower` to `upper`."""
    start: str | None = None
    """A classical or learned method whose image a sampler starts from, with the setting `start_time` (CCDF); None: from
    noise. One that makes coil images is no start."""
    start_prior: str | None = None
    """Network of a learned start, a shipped name or the path of a bundle; null: the shipped one."""

    def resolve(self, prior: Prior | str | None = None) -> ResolvedPlan:
        """Turn names into functions and settings; every mistake in them is found here, before any data are read.

        `prior` is a loaded prior, or a shipped name or path; samplers and learned methods need one. None: the method's
        shipped one.
        Raises ValueError for an unknown method, preset or setting, or a prior that cannot serve.
        """
        _check_numbers(self)
        if self.method not in METHODS:
            raise ValueError(f"no method {self.method!r}{suggest(self.method, METHODS)}")
        method, preset = METHODS[self.method], plan_preset(self)
        options = parse(method.options, {**preset.settings, **self.settings}, f"method {self.method}")
        method.check_map_sets(self.num_map_sets or 1, self.method)
        start_prior = _check_start(self, options)
        used, able = None, False
        known: tuple[Calibration, ...] = ()
        if method.needs_prior:
            loaded = prior if isinstance(prior, Prior) else load_prior(prior or default_prior(self.method))
            _check_prior(self.method, loaded)
            able = _can_fit_maps(loaded)
            used, known = UsedPrior.of(loaded), loaded.calibrations
        resolved = ResolvedPlan(
            dataclasses.replace(self, preset=preset), preset, options, used, able and self.maps == "joint",
            spread=_spread(self, options), checks=_checks(self, options),
            asks=able and not method.chains.coil_images, start_prior=start_prior,
        )  # fmt: skip
        return dataclasses.replace(resolved, calibrations=resolved.fitting(known)) if resolved.checks else resolved


def default_prior(method: str) -> str:
    """Name of the shipped prior that a sampler or learned method uses where none is named."""
    wanted = METHODS[method]
    assert wanted.needs is not None
    able = shipped_for(wanted.needs, wanted.images)
    return able[0] if able and DEFAULT_PRIOR not in able else DEFAULT_PRIOR


def load_prior_of(method: str, name: str | None = None, device: str | torch.device = "cpu") -> Prior | None:
    """Load the prior that a method needs: the one named, else its shipped one. None: it needs none, or is no method."""
    if method not in METHODS or not METHODS[method].needs_prior:
        return None
    return load_prior(name or default_prior(method), device)


def plan_preset(plan: Plan) -> Preset:
    """Return the preset of a plan. Raises ValueError for one that there is not."""
    if isinstance(plan.preset, Preset):
        if plan.preset.method != plan.method:
            raise ValueError(f"the preset is of method {plan.preset.method}, asked for {plan.method}")
        return plan.preset
    try:
        return find_preset(plan.method, plan.preset)
    except ValueError as error:
        raise ValueError(f"method {plan.method}: {error}") from None


def _can_fit_maps(prior: Prior) -> bool:
    """Whether coil maps can be fitted with a prior: one of complex images, whose noise `annealed` removes."""
    return prior.task == "white" and prior.network_config.images == "complex"


def _spread(plan: Plan, options: Options) -> Options | None:
    """Return the settings of the chains that the deviation comes from; None: those of the plan draw it."""
    spread = METHODS[plan.method].spread
    if spread is None or options.draws or plan.num_samples < 2:
        return None
    if not isinstance(spread, StartOptions) or not isinstance(options, StartOptions):
        return spread
    return dataclasses.replace(
        spread, num_steps=min(spread.num_steps, options.num_steps), start_time=options.start_time
    )


def _checks(plan: Plan, options: Options) -> bool:
    if not METHODS[plan.method].samples:
        return False
    return plan.num_samples > 1 and options.evaluations <= CHECKED if plan.check is None else plan.check


def _check_numbers(plan: Plan) -> None:
    if not 0 < plan.level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {plan.level:g}")
    if plan.num_samples < 1 or plan.batch_samples < 1 or plan.seed < 0:
        raise ValueError(
            "num_samples and batch_samples must be at least 1 and seed 0 or larger, got"
            f" {plan.num_samples}, {plan.batch_samples} and {plan.seed}"
        )
    if plan.num_map_sets not in (None, 1, 2) or not 0 <= plan.map_crop < 1 or not 0 < plan.map_threshold < 1:
        raise ValueError(
            "num_map_sets must be 1, 2 or null, map_crop in [0, 1) and map_threshold in (0, 1), got"
            f" {plan.num_map_sets}, {plan.map_crop} and {plan.map_threshold}"
        )


def _check_prior(name: str, prior: Prior) -> None:
    wanted = METHODS[name]
    refusal = wanted.refusal(prior.name, prior.task, prior.network_config.images)
    if refusal and wanted.needs is not None:
        able = ", ".join(shipped_for(wanted.needs, wanted.only))
        setting = "noise.kind" if wanted.samples else "network.architecture"
        able = able or f"none is shipped, train one with {setting}: {wanted.needs}"
        raise ValueError(f"method {name} {refusal}; priors that can serve it: {able}")


def _check_start(plan: Plan, options: Options) -> UsedPrior | None:
    """Return the network of a learned start. Raises ValueError for a start that there is not or that is missing."""
    starts = [name for name, method in METHODS.items() if not (method.samples or method.chains.coil_images)]
    starts.sort(key=lambda name: METHODS[name].needs_prior)
    learned = plan.start in starts and METHODS[plan.start].needs_prior
    if plan.start_prior is not None and not learned:
        raise ValueError(f"start_prior is the network of a learned start, and start is {plan.start}: leave it out")
    if plan.start is None:
        if isinstance(options, StartOptions) and options.start_time < 1:
            raise ValueError(
                f"start_time {options.start_time} leaves out steps: name a start, one of {', '.join(starts)}"
            )
        return None
    if not isinstance(options, StartOptions):
        able = [name for name, method in METHODS.items() if issubclass(method.options, StartOptions)]
        raise ValueError(f"{plan.method} cannot start from another reconstruction; those that can: {', '.join(able)}")
    if plan.start not in starts:
        hint = suggest(plan.start, starts)
        raise ValueError(f"no start {plan.start!r}{hint}; one image without chains make {', '.join(starts)}")
    METHODS[plan.start].check_map_sets(plan.num_map_sets or 1, f"the start {plan.start}")
    network = load_prior_of(plan.start, plan.start_prior)
    if network is None:
        return None
    _check_prior(plan.start, network)
    return UsedPrior.of(network)
