"""What to run on a slice: a plan of names and numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from kdrift.methods import METHODS
from kdrift.methods.classical import BASELINES
from kdrift.methods.presets import Preset, find_preset
from kdrift.recon.slices import SliceData, prepare_slice

DEFAULT_METHOD = "annealed"
DEFAULT_PRIOR = "brain-complex-small"


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
    """Posterior samples a slice; classical methods have one."""
    seed: int = 0
    """Of the samples."""
    batch_samples: int = 8
    """Samples that run as one batch; bounds memory, never changes an answer."""
    keep_samples: bool = False
    """Also give every sample back."""
    on_divergence: Literal["error", "fallback"] = "error"
    """Where all samples of a slice diverge: an error that names it, or CG-SENSE in its place, labelled."""
    precision: Literal["auto", "float32"] = "auto"
    """`auto`: the network runs in bfloat16 where the hardware computes in it natively."""
    num_map_sets: int = 1
    """ESPIRiT map sets, 1 or 2."""
    map_crop: float = 0.0
    """ESPIRiT maps are zero where their eigenvalue is not above this; 0 keeps the background, as RSS images do."""
    map_threshold: float = 0.02
    """Singular values of the calibration matrix below this fraction of the largest are null space."""
    start: str | None = None
    """A classical method whose image a sampler starts from, with the setting `start_time` (CCDF); None: from noise."""

    def prepare(
        self, kspace: Tensor, mask: Tensor, *, index: int = 0, smaps: Tensor | None = None,
        noise_sigma: float | None = None, heldout: Tensor | None = None,
    ) -> SliceData:  # fmt: skip
        """`prepare_slice` with the plan's settings of coil maps, and with the start that it names."""
        data = prepare_slice(
            kspace, mask, index=index, smaps=smaps, noise_sigma=noise_sigma, heldout=heldout,
            num_map_sets=self.num_map_sets, map_crop=self.map_crop, map_threshold=self.map_threshold,
        )  # fmt: skip
        if self.start is None:
            return data
        if data.smaps.ndim != 3:
            raise ValueError(f"a start takes one set of coil maps, got {len(data.smaps)}")
        image = BASELINES[self.start](data.kspace.cpu(), data.mask.cpu(), data.smaps.cpu())
        return dataclasses.replace(data, start=image.to(data.kspace))


def pin(plan: Plan) -> Plan:
    """Return the plan with its preset looked up: one for all processes and machines that run parts of the work."""
    return dataclasses.replace(plan, preset=plan_preset(plan)) if plan.method in METHODS else plan


def plan_preset(plan: Plan) -> Preset:
    """Return the preset of a sampler's plan. Raises ValueError for one that there is not."""
    if isinstance(plan.preset, Preset):
        if plan.preset.method != plan.method:
            raise ValueError(f"the preset is of method {plan.preset.method}, asked for {plan.method}")
        return plan.preset
    try:
        return find_preset(plan.method, plan.preset)
    except ValueError as error:
        raise ValueError(f"method {plan.method}: {error}") from None
