"""What is said of the slices of a volume: those that failed, that diverged, and whether they are to be believed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from kdrift.data.formats.selection import ranges
from kdrift.trust.verdict import Level, Verdict, worst

SINGLY = 3
"""Slices that fail alike and are still named one by one."""
_OPTION = re.compile(r"--([a-z][a-z-]*)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def without_dashes(text: str, *, centred: str, not_centred: str) -> str:
    """Return a sentence that names options of the command with the names that they have elsewhere, and these for
    `--centred` and `--not-centred`, which are one option there."""
    known = {"centred": centred, "not-centred": not_centred}
    return _OPTION.sub(lambda found: known.get(found[1], found[1].replace("-", "_")), text)


def verdict_lines(verdicts: Mapping[int, Verdict], unchecked: Mapping[int, str]) -> list[str]:
    """Return a sentence for each slice: whether it is to be believed, why, and what its deviation was multiplied by.

    Those that say the same but for numbers, more than `SINGLY`, have one together, with the numbers from least to most.
    The worst come first. `unchecked` says of slices without a verdict why there is none.
    """
    said: dict[int, tuple[Level, str]] = {index: (verdict.level, _told(verdict)) for index, verdict in verdicts.items()}
    said |= {index: ("not checked", f"not checked: {why}") for index, why in unchecked.items()}
    kinds: dict[tuple[Level, str], dict[int, str]] = {}
    for index in sorted(said):
        level, text = said[index]
        kinds.setdefault((level, _NUMBER.sub("#", text)), {})[index] = text
    lines, levels = list[str](), [level for level, _ in kinds]
    while levels:
        now = worst(levels)
        levels = [level for level in levels if level != now]
        for (level, _), texts in kinds.items():
            if level == now and len(texts) > SINGLY:
                lines.append(f"slices {ranges(np.array(list(texts)))}: {_together(list(texts.values()))}")
            elif level == now:
                lines += [f"slice {index}: {text}" for index, text in texts.items()]
    return lines


def verdict_summary(levels: Sequence[Level]) -> str:
    """Return the worst level of some slices in a few words, with how many of them have it where not all do."""
    level = worst(levels)
    count = sum(each == level for each in levels)
    return level if count == len(levels) else f"{count} of {len(levels)} slices {level}"


def _told(verdict: Verdict) -> str:
    whose = "the samples' deviation" if not verdict.given else "the deviation"
    if verdict.level == "not checked":
        return str(verdict)
    source, absent = verdict.evidence.calibrated_by, verdict.evidence.uncalibrated
    told = f"{verdict}{f'; intervals are not calibrated ({absent})' * bool(absent)}"
    return f"{told}; {whose} is multiplied by {verdict.factor:.2f}{f' ({source})' * bool(source)}"


def _together(texts: Sequence[str]) -> str:
    """Return texts that differ by their numbers alone as one, with each number from least to most."""
    columns = [sorted(set(each), key=float) for each in zip(*map(_NUMBER.findall, texts), strict=True)]
    spans = iter(each[0] if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in columns)
    return _NUMBER.sub(lambda _: next(spans), texts[0])


def failure_lines(failed: Mapping[int, str]) -> list[str]:
    """Return a sentence for each slice that failed; more than `SINGLY` that failed alike have one together."""
    by_reason: dict[str, list[int]] = {}
    for index, reason in failed.items():
        by_reason.setdefault(reason.removeprefix(f"slice {index}: "), []).append(index)
    lines = []
    for reason, indices in by_reason.items():
        if len(indices) > SINGLY:
            lines.append(f"slices {ranges(np.array(indices))}: {reason}; their images are zero")
        else:
            lines += [f"{named(index, reason)}; its image is zero" for index in indices]
    return lines


def named(index: int, reason: str) -> str:
    """Put the number of a slice before what is wrong with it, unless it stands there."""
    return reason if reason.startswith(f"slice {index}:") else f"slice {index}: {reason}"


def divergence_lines(diverged: Mapping[int, Mapping[int, str]], fallback: Sequence[int]) -> list[str]:
    """Return a sentence for each slice of which samples diverged."""
    lines = []
    for index, samples in diverged.items():
        first = next(iter(samples), None)
        if first is None:
            continue
        left = "none is left, the slice is CG-SENSE" if index in fallback else "they are left out"
        numbers = ", ".join(map(str, samples))
        lines.append(f"slice {index}: samples diverged: {numbers} ({first} at {samples[first]}); {left}")
    return lines
