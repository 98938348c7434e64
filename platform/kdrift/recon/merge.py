"""The chunks of one slice, merged to its mean, its standard deviation and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kdrift.recon.chunks import ChunkResult, Fallback, Part
from kdrift.recon.guard import Diverged, Divergence
from kdrift.trust.calibrated import calibrated_std
from kdrift.trust.predicted import predictions
from kdrift.trust.uncertainty import RunningMoments
from kdrift.trust.verdict import Verdict


@dataclass(frozen=True)
class SliceResult:
    """All chunks of a slice together, in the unit of the slice."""

    mean: Tensor
    """Magnitude `(row, col)`."""
    std: Tensor
    """Standard deviation of the samples; calibrated where the slice was checked."""
    samples: Tensor | None
    """`(sample, row, col)` where every chunk kept its images; NaN where diverged."""
    misfit: float
    """|M (y - A x)|^2, mean over the chains that make the mean."""
    nfe: int
    """Network evaluations of a chain of samples or of the mean; those that check are in `network_images`."""
    network_images: int
    stages: dict[str, float]
    heldout_misfit: float | None = None
    """|y - A x|^2 at the held-out samples, x the mean of the complex samples, where the slice has held-out samples."""
    diverged: dict[int, str] = field(default_factory=dict)
    """Numbers of samples that diverged and are left out, and when and why; chains of the mean count on from them."""
    fallback: bool = False
    """Whether all samples diverged: then `mean` is CG-SENSE and `std` zero."""
    verdict: Verdict | None = None
    """Whether the image is to be believed; None where that was not checked."""


@dataclass(frozen=True)
class _Chains:
    """The chains of one part together."""

    count: int
    moments: RunningMoments | None
    """None where none is left, or there are none."""
    images: Tensor | None
    misfit: float
    heldout_misfit: float | None
    diverged: dict[int, Divergence]


def merge_chunks(results: Sequence[ChunkResult]) -> SliceResult:
    """Merge the chunks of one slice, in the order of their samples whatever the order they come in.

    A sample that diverged in any chunk is left out. The mean is that of the chains that are for it, where there are
    some, else of the samples; the standard deviation is that of the samples, calibrated where a chunk has checked the
    slice. Raises ValueError unless the chunks of a part hold every sample from 0 on exactly once, and `Diverged` where
    no sample is left and no chunk has a fallback.
    """
    if not results:
        raise ValueError("expected at least one chunk, got none")
    draws, means = _joined(results, "samples"), _joined(results, "mean")
    diverged = draws.diverged | {draws.count + sample: seen for sample, seen in means.diverged.items()}
    best = means if means.count else draws
    merged = SliceResult(
        mean=torch.empty(0),
        std=torch.empty(0),
        samples=draws.images,
        misfit=best.misfit,
        nfe=max(r.nfe for r in results if r.chunk.part != "check"),
        network_images=sum(r.network_images for r in results),
        stages={name: sum(r.stages[name] for r in results) for name in results[0].stages},
        heldout_misfit=best.heldout_misfit,
        diverged={sample: str(diverged[sample]) for sample in sorted(diverged)},
    )
    if best.moments is None or draws.moments is None:
        lost = means.diverged if means.count and means.moments is None else draws.diverged
        fallback = _fallback(results, list(lost.values()))
        image = fallback.image
        return replace(merged, mean=image, std=torch.zeros_like(image), misfit=fallback.misfit, fallback=True)
    merged = replace(merged, mean=best.moments.mean, std=draws.moments.std)
    return _judged(merged, None if means.moments is None else means.moments.std, results)


def _judged(merged: SliceResult, other: Tensor | None, results: Sequence[ChunkResult]) -> SliceResult:
    """Return the result with its verdict, and what follows from it, where a chunk has checked the slice."""
    checked = next((result.checked for result in results if result.checked is not None), None)
    if checked is None:
        return merged
    verdict, instead = checked.verdict, checked.instead
    if instead is not None:
        merged = replace(merged, mean=instead.image, misfit=instead.misfit)
    if not bool(merged.std.any()):  # one sample has no spread
        return replace(merged, verdict=verdict)
    std = calibrated_std(merged.std, other, factor=verdict.factor, noise=verdict.evidence.image_noise)
    verdict = replace(verdict, figures=predictions(merged.mean, std, verdict.evidence.bounds))
    return replace(merged, std=std, verdict=verdict)


def _joined(results: Sequence[ChunkResult], part: Part) -> _Chains:
    groups: dict[tuple[int, int], list[ChunkResult]] = {}
    for result in sorted(results, key=lambda r: (r.chunk.samples, r.chunk.coils or (0, 0))):
        if result.chunk.part == part:
            groups.setdefault(result.chunk.samples, []).append(result)
    moments, images, misfits, expected = None, [], [], 0
    heldout: list[Tensor] = []
    diverged: dict[int, Divergence] = {}
    for (start, stop), parts in groups.items():
        if start != expected:
            raise ValueError(f"chunks hold samples {start} to {stop - 1}, expected the next to start at {expected}")
        expected = stop
        for seen in sorted((d for each in parts for d in each.diverged), key=lambda d: d.step):
            diverged.setdefault(seen.sample, seen)
        rows = [sample - start for sample in range(start, stop) if sample not in diverged]
        found, kept = _join_coils(parts, rows)
        moments = found if moments is None else moments if found is None else moments.merge(found)
        images.append(kept)
        misfits.append(torch.stack([each.misfit for each in parts]).sum(0)[rows])
        unseen = [each.heldout for each in parts if each.heldout is not None]
        heldout += [torch.cat(unseen, 1)[rows]] if rows and unseen else []
    whole = [image for image in images if image is not None]
    return _Chains(
        count=expected,
        moments=moments,
        images=torch.cat(whole) if whole and len(whole) == len(images) else None,
        misfit=float(torch.cat(misfits).mean()) if misfits else 0.0,
        heldout_misfit=float(torch.cat(heldout).mean(0).abs().square().sum()) if heldout else None,
        diverged=diverged,
    )


def _join_coils(parts: list[ChunkResult], rows: list[int]) -> tuple[RunningMoments | None, Tensor | None]:
    """Return the moments of the samples in `rows` of a chunk, None where there are none, and all images."""
    first = parts[0]
    if first.chunk.coils is None:
        return first.moments, first.images
    images = torch.stack([part.images for part in parts if part.images is not None]).square().sum(0).sqrt()
    return RunningMoments.of(images[rows]) if rows else None, images


def _fallback(results: Sequence[ChunkResult], diverged: list[Divergence]) -> Fallback:
    for result in results:
        if result.fallback is not None:
            return result.fallback
    first = min(diverged, key=lambda d: d.step)
    count = f"all {len(diverged)} samples" if len(diverged) > 1 else "the sample"
    raise Diverged(
        f"slice {first.slice_index}: {count} diverged, sample {first.sample} at {first}; take more or smaller steps,"
        " a prior of such images, or on-divergence fallback, which gives CG-SENSE"
    )
