"""The slices of a volume, put together to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrift.methods import METHODS
from kdrift.recon.merge import SliceResult
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.slices import SliceData
from kdrift.trust.verdict import EXCESS, RESIDUAL, Verdict


@dataclass(frozen=True)
class SliceFacts:
    """What a result tells of a slice besides its images; on the CPU, in the unit of the slice."""

    index: int
    """Number of the slice in its volume."""
    zero_filled: Tensor
    """Magnitude `(row, col)`."""
    noise_sigma: float
    norm: float
    """|y| of the undersampled k-space."""
    prepare_s: float
    """Seconds that preparing the slice took."""
    unit: float = 1.0
    """What images, noise and norm are multiplied by to be on the scale of the data."""
    noise_source: str = ""
    """Where what is known of the coils' noise comes from."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out, guessed or is doubtful."""
    num_measured: int = 0
    """Numbers in the undersampled k-space, all coils together."""

    @staticmethod
    def of(data: SliceData, prepare_s: float) -> SliceFacts:
        """Facts of a prepared slice."""
        norm = float(torch.linalg.vector_norm(data.kspace))
        count = len(data.kspace) * int(data.mask.sum())
        return SliceFacts(
            data.index, data.zero_filled.cpu(), data.noise_sigma, norm, prepare_s, data.unit, data.noise_source,
            (*data.notes, *filter(None, [data.sets_note])), count,
        )  # fmt: skip

    def excess(self, misfit: float) -> float:
        """Return how many times what noise explains a data residual of this square is."""
        expected = self.noise_sigma * (2 * self.num_measured) ** 0.5
        return misfit**0.5 / expected if expected > 0 else 0.0


Outcome = tuple[SliceFacts, SliceResult] | str
"""What became of a slice: its images, or why there are none."""


def gather(
    slices: Mapping[int, Outcome],
    mask: Tensor,
    config: dict[str, Any],
    *,
    seconds: float | None = None,
    smaps: Tensor | None = None,
) -> ReconstructionResult:
    """Put the slices of a volume together, by their numbers and in their order, on the scale of the data.

    Those that failed are zero. `seconds` None: the sum over the stages. Raises ValueError with the reason of the first
    where all have failed.
    """
    done = {index: outcome for index, outcome in slices.items() if not isinstance(outcome, str)}
    failed = {index: outcome for index, outcome in slices.items() if isinstance(outcome, str)}
    if not done:
        raise ValueError(next(iter(failed.values())))
    facts, outputs = [f for f, _ in done.values()], [o for _, o in done.values()]
    stages = {"prepare": sum(f.prepare_s for f in facts)}
    stages |= {name: sum(o.stages[name] for o in outputs) for name in outputs[0].stages}

    def placed(images: Sequence[Tensor]) -> Tensor:
        found = dict(zip(done, images, strict=True))
        return torch.stack([found.get(index, torch.zeros_like(images[0])) for index in slices])

    kept = [f.unit * o.samples for f, o in done.values() if o.samples is not None]
    return ReconstructionResult(
        mean=placed([f.unit * o.mean for f, o in done.values()]),
        std=placed([f.unit * o.std for f, o in done.values()]),
        samples=placed(kept) if len(kept) == len(outputs) else None,
        zero_filled=placed([f.unit * f.zero_filled for f in facts]),
        mask=mask.cpu(),
        smaps=smaps,
        nfe=max(o.nfe for o in outputs),
        network_images=sum(o.network_images for o in outputs),
        seconds=sum(stages.values()) if seconds is None else seconds,
        stages=stages,
        config=config,
        net_acceleration=mask.numel() / max(1, int(mask.sum())),
        data_residual=float(np.mean([share(f, o) for f, o in done.values()])),
        noise_sigma=[o[0].unit * o[0].noise_sigma if not isinstance(o, str) else 0.0 for o in slices.values()],
        diverged={index: o.diverged for index, (_, o) in done.items() if o.diverged},
        fallback=[index for index, (_, o) in done.items() if o.fallback],
        verdicts={index: _on_data(o.verdict, f.unit) for index, (f, o) in done.items() if o.verdict is not None},
        indices=tuple(slices),
        failed=failed,
        noise_source="; ".join(dict.fromkeys(f.noise_source for f in facts if f.noise_source)),
        notes=(*_notes(facts), *residual_notes(done, config["method"]), *_unused(config)),
    )


def _unused(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence where a fallback was asked for that nothing can decide on."""
    if config.get("on_mistrust") != "fallback" or "unchecked" not in config:
        return ()
    return (f"no slice is judged: {config['unchecked']}",)


def _on_data(verdict: Verdict, unit: float) -> Verdict:
    """Return a verdict whose noise is on the scale of the data."""
    return replace(verdict, evidence=replace(verdict.evidence, image_noise=unit * verdict.evidence.image_noise))


def _notes(facts: Sequence[SliceFacts]) -> tuple[str, ...]:
    """Return what was noted of the slices, each sentence once, with the slices where it is not of all."""
    found: dict[str, list[int]] = {}
    for each in facts:
        for note in each.notes:
            found.setdefault(note, []).append(each.index)
    where = {note: f"slice{'s' * (len(at) > 1)} {', '.join(map(str, at))}: " for note, at in found.items()}
    return tuple(note if len(at) == len(facts) else where[note] + note for note, at in found.items())


def share(facts: SliceFacts, result: SliceResult) -> float:
    """Return the data residual of a slice as a part of its data."""
    return result.misfit**0.5 / facts.norm if facts.norm > 0 else 0.0


def residual_notes(slices: Mapping[int, tuple[SliceFacts, SliceResult]], method: str) -> tuple[str, ...]:
    """Return a sentence where images do not explain the data: where noise does not explain what is left of them."""
    if not METHODS[method].fits_data:
        return ()
    found = {index: (share(facts, result), facts.excess(result.misfit)) for index, (facts, result) in slices.items()}
    bad = {index: both for index, both in found.items() if both[0] > RESIDUAL and both[1] > EXCESS}
    if not bad:
        return ()
    index = max(bad, key=lambda index: bad[index][0])
    part, times = bad[index]
    where = f"slice {', '.join(map(str, bad))}" if len(bad) < len(found) else "every slice"
    return (
        f"the image does not explain the data of {where}: what is left is {part:.0%} of the data, {times:.1f} times"
        f" the noise{'' if len(bad) == 1 else f' (slice {index})'}; likely causes are lines that do not belong together"
        " (motion, another contrast, a ghost of reversed lines), coil maps or axes that do not fit, a mask that marks"
        " what was not measured, or a method or prior that does not suit",
    )
