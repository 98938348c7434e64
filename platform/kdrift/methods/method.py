"""What a posterior sampler says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from kdrift.networks import Images
from kdrift.sde import Noise


@dataclass(frozen=True)
class Method:
    """A sampler with its presets."""

    sample: Callable[..., Tensor]
    """Called `(score, sde, measurement, *, rng, options, callback)`; returns samples `(sample, ...)`."""
    options: type[Any]
    """Dataclass of its settings."""
    presets: Mapping[str, Any]
    """Named settings; See `preset` for the one that is used where none is named."""
    chains: Literal["image", "coil", "coupled_coils"]
    """What one chain is: an image (or map set), combined already; or a coil image, combined by RSS at the end, on its
    own or with steps that couple a sample's coils."""
    summary: str
    noise: Noise = "white"
    """What its prior was trained to remove."""
    images: Images = "complex"
    """Of the shipped prior that it takes where none is named."""
    only: Images | None = None
    """Images that its prior must be of; None: a prior of either kind can serve it."""

    def refusal(self, name: str, noise: Noise, images: Images | None) -> str:
        """Say why the prior `name` of this noise and these images cannot serve it; empty where it can."""
        if noise != self.noise:
            return f"needs a prior trained on {self.noise} noise, {name} was trained on {noise} noise"
        if images is not None and self.only not in (None, images):
            return f"needs a prior of {self.only} images, {name} is of {images} images"
        return ""

    def preset(self, name: str | None) -> tuple[str, Any]:
        """Return the name and the settings of a preset, by default the first there is of `tuned`, `stable`, `paper` and
        the others."""
        name = name or next(known for known in ("tuned", "stable", "paper", *self.presets) if known in self.presets)
        if name not in self.presets:
            raise ValueError(f"no preset {name!r}; there are {', '.join(self.presets)}")
        return name, self.presets[name]
