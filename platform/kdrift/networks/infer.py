"""The configuration of a network from the names and shapes of its published parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from kdrift.networks import Architecture

Shapes = Mapping[str, tuple[int, ...]]
FIRST_KEYS: dict[str, Architecture] = {
    "all_modules.0.W": "ncsnpp",
    "all_modules.0.weight": "ddpm",
    "begin_conv.weight": "ncsnv2",
}


def infer_architecture(shapes: Shapes) -> Architecture:
    """Tell the network from the name of its first layer; ValueError names the first key of one that is not known."""
    for key, architecture in FIRST_KEYS.items():
        if key in shapes:
            return architecture
    known = ", ".join(f"{architecture} by {key}" for key, architecture in FIRST_KEYS.items())
    raise ValueError(f"key {next(iter(shapes), '(none)')} belongs to no network that kdrift has (it knows {known})")


def infer_settings(architecture: Architecture, shapes: Shapes, image_size: int = 320) -> dict[str, Any]:
    """Return the settings of the architecture that show in shapes; a wrong guess does not fit, and is found by that.

    `image_size` only gives the names of the levels with attention. Raises ValueError naming a key that is missing or
    has another number of axes.
    """
    if architecture == "ncsnv2":
        first = _shape(shapes, "begin_conv.weight", 4)
        return {"ngf": first[0], "channels": first[1], "num_levels": _shape(shapes, "sigmas", 1)[0]}
    if architecture == "ddpm":
        nf, first = _shape(shapes, "all_modules.0.weight", 2)[1], _shape(shapes, "all_modules.2.weight", 4)
    else:
        nf, first = _shape(shapes, "all_modules.0.W", 1)[0], _shape(shapes, "all_modules.3.weight", 4)
    ch_mult, num_res_blocks, attended, middle_attention = _unet(architecture, shapes, nf)
    settings: dict[str, Any] = {
        "image_size": image_size,
        "channels": first[1],
        "nf": nf,
        "ch_mult": ch_mult,
        "num_res_blocks": num_res_blocks,
        "attn_resolutions": tuple(image_size // 2**level for level, has in enumerate(attended) if has),
    }
    if architecture == "ncsnpp":
        settings["middle_attention"] = middle_attention
        pyramid = [key for key in shapes if re.fullmatch(r"all_modules\.\d+\.Conv(2d)?_0\.weight", key)]
        pyramid = [key for key in pyramid if key.rpartition("Conv")[0] + "Dense_0.weight" not in shapes]
        settings["progressive_input"] = "residual" if pyramid else "none"
        settings["fir"] = not pyramid or "Conv2d" in pyramid[0]
    return settings


def _unet(architecture: Architecture, shapes: Shapes, nf: int) -> tuple[tuple[int, ...], int, list[bool], bool]:
    """Read `ch_mult`, `num_res_blocks`, which levels have attention, and whether the middle has, off the layers."""
    levels: list[list[tuple[str, int]]] = [[]]  # cut where the size changes
    for kind, outputs in _layers(architecture, shapes):
        if kind == "resample":
            levels.append([])
        else:
            levels[-1].append((kind, outputs))
    num_levels = len(levels) // 2 + 1
    blocks = [[outputs for kind, outputs in level if kind == "block"] for level in levels]
    attention = [len(level) - len(outputs) for level, outputs in zip(levels, blocks, strict=True)]
    bottom = num_levels - 1  # its list goes on with the middle blocks and the way up
    count = len(blocks[0]) if bottom else (len(blocks[0]) - 3) // 2
    if count < 1 or not all(blocks[:num_levels]):
        raise ValueError(f"the layers of {architecture} are no U-Net: {len(blocks[0])} blocks before the first change")
    attended = [number > 0 for number in attention[:bottom]] + [attention[bottom] > 1]
    middle = attention[bottom] - (count + 1) * attended[-1]
    return tuple(level[0] // nf for level in blocks[:num_levels]), count, attended, middle > 0


def _layers(architecture: Architecture, shapes: Shapes) -> list[tuple[str, int]]:
    """Name the numbered layers in their order: block, attention or resample, with its output channels."""
    numbered = [(int(m[1]), key) for key in shapes if (m := re.match(r"all_modules\.(\d+)\.", key))]
    found = []
    for index, group in groupby(sorted(numbered), key=lambda item: item[0]):
        prefix = f"all_modules.{index}."
        names = {key.removeprefix(prefix) for _, key in group}
        if "NIN_3.W" in names:
            found.append(("attention", 0))
        elif "Dense_0.weight" in names:
            outputs, inputs = _shape(shapes, prefix + "Conv_0.weight", 4)[:2]
            resampled = "Conv_2.weight" in names and inputs == outputs  # NCSN++ resamples inside a block
            found.append(("resample" if resampled else "block", outputs))
        elif architecture == "ddpm" and "Conv_0.weight" in names:
            found.append(("resample", 0))
    return found


def _shape(shapes: Shapes, key: str, axes: int) -> tuple[int, ...]:
    if key not in shapes:
        raise ValueError(f"key {key} is missing")
    if len(shapes[key]) != axes:
        raise ValueError(f"key {key} has shape {shapes[key]}, expected {axes} axes")
    return shapes[key]
