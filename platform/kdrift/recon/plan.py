"""What to run on a slice: a plan of names and numbers, and what it resolves to, once, at the entrance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from kdrift.methods import METHODS, ChainNoise, Method, Options, StartOptions
from kdrift.methods.joint_maps import joint_maps
from kdrift.methods.presets import Preset, find_preset
from kdrift.mri.image_scale import ImageScale
from kdrift.prior.bundle import Prior, load_prior, shipped_for
from kdrift.prior.network_score import NetworkScore
from kdrift.recon.chunks import Chunk, split_chains
from kdrift.recon.slices import RawSlice, SliceData, prepare_slice
from kdrift.runs.config import parse
from kdrift.runs.hint import suggest
from kdrift.sde import VESDE

DEFAULT_METHOD = "annealed"
DEFAULT_PRIOR = "brain-complex"


@dataclass(frozen=True)
class Plan:
    """What to run: method, preset, settings, number of samples, seed."""

    method: str = DEFAULT_METHOD
    """Sampler or classical method."""
    preset: str | Preset | None = None
    """Named settings of the method: a built-in name, a name of your own or FILE.yaml (kdrift list presets). By default
    what kdrift presets use has chosen, else the first there is of tuned, stable and paper."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Overrides of the preset's settings by name."""
    num_samples: int = 8
    """Posterior samples a slice; a classical method gives one image."""
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
    num_map_sets: int = 1
    """ESPIRiT map sets, 1 or 2."""
    map_crop: float = 0.0
    """ESPIRiT maps are zero where their eigenvalue is not above this; 0 keeps the background, as RSS images do."""
    map_threshold: float = 0.02
    """Singular values of the calibration matrix below this fraction of the largest are null space."""
    start: str | None = None
    """A classical method whose image a sampler starts from, with the setting `start_time` (CCDF); None: from noise."""

    def resolve(self, prior: Prior | str | None = None) -> ResolvedPlan:
        """Turn names into functions and settings; every mistake in them is found here, before any data are read.

        `prior` is a loaded prior, or a shipped name or path; only samplers need one. None: the method's shipped prior.
        Raises ValueError for an unknown method, preset or setting, or a prior that cannot serve.
        """
        _check_numbers(self)
        if self.method not in METHODS:
            raise ValueError(f"no method {self.method!r}{suggest(self.method, METHODS)}")
        method, preset = METHODS[self.method], plan_preset(self)
        options = parse(method.options, {**preset.settings, **self.settings}, f"method {self.method}")
        method.check_map_sets(self.num_map_sets, self.method)
        _check_start(self, options)
        used, joint = None, False
        if method.needs_prior:
            loaded = prior if isinstance(prior, Prior) else load_prior(prior or default_prior(self.method))
            _check_prior(self.method, loaded)
            joint = self.maps == "joint" and _can_fit_maps(loaded)
            used = UsedPrior(loaded.name, loaded.sha256, loaded.info.scale)
        return ResolvedPlan(dataclasses.replace(self, preset=preset), preset, options, used, joint)


@dataclass(frozen=True)
class UsedPrior:
    """Which prior a plan was resolved with."""

    name: str
    sha256: str
    """SHA-256 of the weights."""
    scale: ImageScale
    """How its training images were scaled; a slice is scaled alike."""


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan with everything looked up: plain values that travel to every process that runs a part of the work."""

    plan: Plan
    preset: Preset
    options: Options
    """The method's settings, all of them."""
    prior: UsedPrior | None
    """Prior that it was resolved with; None for a classical method."""
    fits_maps: bool = False
    """Whether coil maps are fitted together with the image, by that prior."""

    @property
    def method(self) -> Method:
        """The entry of the table."""
        return METHODS[self.plan.method]

    @property
    def num_samples(self) -> int:
        """Samples a slice; 1 for a classical method."""
        return self.plan.num_samples if self.method.needs_prior else 1

    @property
    def config(self) -> dict[str, Any]:
        """What travels with a result, as plain values."""
        plan = self.plan
        kind = "joint" if self.fits_maps else "espirit"
        maps = {"kind": kind, "sets": plan.num_map_sets, "crop": plan.map_crop, "threshold": plan.map_threshold}
        config = {
            "method": plan.method,
            "preset": self.preset.name,
            "preset_source": self.preset.source,
            "options": dataclasses.asdict(self.options),
            "num_samples": self.num_samples,
            "seed": plan.seed,
            "maps": maps,
            "precision": plan.precision,
            "on_divergence": plan.on_divergence,
        }
        config |= {"prior": dataclasses.asdict(self.prior)} if self.prior else {}
        config |= {"start": plan.start} if plan.start is not None else {}
        return config | ({"preset_provenance": self.preset.provenance} if self.preset.provenance else {})

    def headline(self, device: object) -> str:
        """Return the first line of every reconstruction: method, preset, prior, steps, samples and device."""
        parts = [f"preset {self.preset.name} ({self.preset.source})"]
        if self.prior is not None:
            parts.append(f"prior {self.prior.name}")
        if self.plan.start is not None:
            parts.append(f"from {self.plan.start}")
        options = dataclasses.asdict(self.options)
        if "num_steps" in options:
            parts += [f"{options['num_steps']} steps", f"{self.num_samples} samples"]
        else:
            parts += [f"{name} {value}" for name, value in options.items()]
        return f"{self.plan.method}: {', '.join([*parts, str(device)])}"

    def prepare(self, raw: RawSlice, prior: Prior | None = None, *, heldout: Tensor | None = None) -> SliceData:
        """Make a slice ready with the plan's settings of coil maps, and with the start that it names.

        `prior` is the one that the plan was resolved with. See `kdrift.recon.slices.prepare_slice`.
        """
        plan = self.plan
        data = prepare_slice(
            raw, heldout=heldout, scale=self.prior.scale if self.prior else None,
            num_sets=plan.num_map_sets, crop=plan.map_crop, threshold=plan.map_threshold,
            refine=(lambda data: self._joint_maps(data, prior)) if self.fits_maps else None,
        )  # fmt: skip
        sets = data.smaps.shape[:-3].numel()
        self.method.check_map_sets(sets, self.plan.method)
        if self.plan.start is None:
            return data
        start = METHODS[self.plan.start]
        start.check_map_sets(sets, self.plan.start)
        image = start.function(data.measurement(), options=start.preset(None)[1])
        return dataclasses.replace(data, start=data.scale * image)

    def score(self, prior: Prior) -> NetworkScore:
        """Return the score model of the prior that it was resolved with, in the plan's precision."""
        return prior.score(fast=None if self.plan.precision == "auto" else False)

    def _joint_maps(self, data: SliceData, prior: Prior | None) -> Tensor:
        if prior is None:
            raise ValueError("coil maps are fitted with the prior: give the one that the plan was resolved with")
        measurement, like = data.measurement(), data.kspace
        rng = ChainNoise(
            self.plan.seed, data.index, [0], *measurement.A.ishape[:-2], stream="coil maps",
            device=like.device, dtype=like.dtype,
        )  # fmt: skip
        sde = prior.sde(*data.mask.shape)
        assert isinstance(sde, VESDE)  # see `_can_fit_maps`
        return joint_maps(self.score(prior), sde, measurement, rng=rng)

    def split(self, num_coils: int, num_chunks: int = 1) -> list[Chunk]:
        """Split the chains of a slice of so many coils into chunks, a multiple of `num_chunks` where they suffice."""
        coils = num_coils if self.method.chains.splits else None
        return split_chains(
            self.num_samples, num_coils=coils, num_chunks=num_chunks, batch_samples=self.plan.batch_samples
        )

    def num_chains(self, num_coils: int, chunk: Chunk | None = None) -> int:
        """Return how many images go through the network at a step, in all or in one chunk."""
        coils = num_coils if self.method.chains.coil_images else 1
        if chunk is None:
            return self.num_samples * coils
        return chunk.num_samples * (chunk.coils[1] - chunk.coils[0] if chunk.coils else coils)


def default_prior(method: str) -> str:
    """Name of the shipped prior that a sampler uses where none is named."""
    wanted = METHODS[method]
    assert wanted.noise is not None
    able = shipped_for(wanted.noise, wanted.images)
    return able[0] if able and DEFAULT_PRIOR not in able else DEFAULT_PRIOR


def load_priors(
    methods: Iterable[str], name: str | None = None, device: str | torch.device = "cpu"
) -> dict[str, Prior]:
    """Load the prior of each sampler among `methods`: the one named, else each method's shipped one."""
    samplers = [method for method in methods if method in METHODS and METHODS[method].needs_prior]
    names = {method: name or default_prior(method) for method in samplers}
    loaded = {each: load_prior(each, device) for each in sorted(set(names.values()))}
    return {method: loaded[each] for method, each in names.items()}


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
    return prior.noise == "white" and prior.network_config.images == "complex"


def _check_numbers(plan: Plan) -> None:
    if plan.num_samples < 1 or plan.batch_samples < 1 or plan.seed < 0:
        raise ValueError(
            "num_samples and batch_samples must be at least 1 and seed 0 or larger, got"
            f" {plan.num_samples}, {plan.batch_samples} and {plan.seed}"
        )
    if plan.num_map_sets not in (1, 2) or not 0 <= plan.map_crop < 1 or not 0 < plan.map_threshold < 1:
        raise ValueError(
            "num_map_sets must be 1 or 2, map_crop in [0, 1) and map_threshold in (0, 1), got"
            f" {plan.num_map_sets}, {plan.map_crop} and {plan.map_threshold}"
        )


def _check_prior(name: str, prior: Prior) -> None:
    wanted = METHODS[name]
    refusal = wanted.refusal(prior.name, prior.noise, prior.network_config.images)
    if refusal and wanted.noise is not None:
        able = ", ".join(shipped_for(wanted.noise, wanted.only))
        able = able or f"none is shipped, train one with noise.kind: {wanted.noise}"
        raise ValueError(f"method {name} {refusal}; priors that can serve it: {able}")


def _check_start(plan: Plan, options: Options) -> None:
    classical = [name for name, method in METHODS.items() if not method.needs_prior]
    if plan.start is None:
        if isinstance(options, StartOptions) and options.start_time < 1:
            raise ValueError(
                f"start_time {options.start_time} leaves out steps: name a start, one of {', '.join(classical)}"
            )
        return
    if not isinstance(options, StartOptions):
        able = [name for name, method in METHODS.items() if issubclass(method.options, StartOptions)]
        raise ValueError(f"{plan.method} cannot start from another reconstruction; those that can: {', '.join(able)}")
    if plan.start not in classical:
        raise ValueError(f"no start {plan.start!r}{suggest(plan.start, classical)}")
    METHODS[plan.start].check_map_sets(plan.num_map_sets, f"the start {plan.start}")
