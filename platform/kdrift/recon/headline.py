"""The first line of every reconstruction: what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def headline(config: Mapping[str, Any], device: object) -> str:
    """Return one line with method, preset and where it comes from, prior, steps, samples and device.

    `config` is the resolved configuration, as results hold it (`ResolvedPlan.config`).
    """
    options = config["options"]
    parts = []
    if config.get("preset"):
        source = config.get("preset_source")
        parts.append(f"preset {config['preset']}" + (f" ({source})" if source else ""))
    if config.get("prior"):
        parts.append(f"prior {config['prior']['name']}")
    if config.get("start"):
        parts.append(f"from {config['start']}")
    if "num_steps" in options:
        parts += [f"{options['num_steps']} steps", f"{config['num_samples']} samples"]
    else:
        parts += [f"{name} {value}" for name, value in options.items()]
    return f"{config['method']}: {', '.join([*parts, str(device)])}"
