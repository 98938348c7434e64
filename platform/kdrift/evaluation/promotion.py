"""Whether a registered prior takes the place of the champion: by evaluations that both priors have been through."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrift.evaluation.paired import bootstrap_interval, wilcoxon_p
from kdrift.runs.files import read_json
from kdrift.runs.registry import CANDIDATE, CHAMPION, aliases, registered_version, set_alias
from kdrift.runs.remote import copied

FIGURES = {"psnr": "dB PSNR", "ssim": "SSIM"}
"""Figures that a new champion may not be worse in, in the mean over all slices."""


@dataclass(frozen=True)
class Contest:
    """A prior against another on the same slices, by one figure of quality."""

    figure: str
    pairs: int
    """Slices that both have reconstructed, in the same way."""
    difference: float
    """Mean over them, that of the first minus that of the second."""
    interval: tuple[float, float]
    """Its 95 % bootstrap interval over slices."""
    p: float
    """p of the signed-rank test."""

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.difference:+.3g} {FIGURES[self.figure]} on {self.pairs} slices"
            f" (95 % interval {low:+.3g} to {high:+.3g}, p = {self.p:.2g})"
        )


def contest(folders: Iterable[str | os.PathLike[str]], first: str, second: str) -> list[Contest]:
    """Compare two priors, by the SHA-256 of their weights, on what evaluations have of both.

    `folders` are their outputs, paths or URLs. Slices are paired where file, sampling, method with all its settings,
    and seed are the same. Raises ValueError for a folder without an evaluation, and where nothing is paired.
    """
    figures: dict[str, dict[str, Mapping[str, float]]] = {first: {}, second: {}}
    for folder in folders:
        with copied(folder, lambda name: name.endswith("metrics.json")) as here:
            reports = [read_json(path) for path in sorted((here / "cells").rglob("metrics.json"))]
        if not reports:
            raise ValueError(f"{folder} holds no evaluation: expected the output of kdrift evaluate")
        for report in reports:
            of = (report["config"].get("prior") or {}).get("sha256")
            if of in figures:
                figures[of] |= {f"{_way(report)} {slice}": found for slice, found in report["by_slice"].items()}
    both = sorted(figures[first].keys() & figures[second].keys())
    if not both:
        counts = ", ".join(f"{len(found)} of {sha256[:12]}" for sha256, found in figures.items())
        raise ValueError(f"no slice was reconstructed with both priors in the same way; the evaluations have {counts}")
    return [
        _contest(name, [(figures[first][key][name], figures[second][key][name]) for key in both]) for name in FIGURES
    ]


def _contest(figure: str, pairs: Sequence[tuple[float, float]]) -> Contest:
    differences = [a - b for a, b in pairs]
    p = wilcoxon_p([a for a, _ in pairs], [b for _, b in pairs])
    return Contest(figure, len(pairs), statistics.fmean(differences), bootstrap_interval(differences), p)


def _way(report: Mapping[str, Any]) -> str:
    """What was reconstructed and how, the prior apart: file, sampling, method, settings, seed."""
    config = {name: value for name, value in report["config"].items() if name not in ("prior", "calibrations")}
    return json.dumps([report["volume"], report["sampling"], report["seed"], config], sort_keys=True)


@dataclass(frozen=True)
class Promotion:
    """What came of it."""

    version: str
    promoted: bool
    told: list[str]
    """What was compared, and why it was promoted or not."""


def promote(
    uri: str,
    name: str,
    folders: Sequence[str | os.PathLike[str]] = (),
    *,
    version: str | None = None,
    compared: bool = True,
) -> Promotion:
    """Give the alias `champion` of a registered prior to a version, by default to the one called `candidate`.

    Where there is a champion of other weights, evaluations of both decide: the mean PSNR and SSIM may not be lower.
    `compared` False takes the version without asking. The version's tags say what decided. Raises ValueError where the
    registry lacks the version, and for evaluations that compare nothing.
    """
    chosen, sha256 = registered_version(uri, name, alias=CANDIDATE, version=version)
    told, tags = [], {"promoted": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if CHAMPION not in aliases(uri, name):
        told.append(f"{name} had no champion")
    else:
        champion, theirs = registered_version(uri, name)
        if champion == chosen:
            return Promotion(chosen, False, [f"version {chosen} is the champion already"])
        tags |= {"promoted_over": champion}
        if sha256 == theirs:
            told.append(f"version {champion} has the same weights")
        elif not compared:
            told.append(f"version {champion} was not compared with it")
        elif not folders:
            raise ValueError(
                f"version {champion} of {name} is the champion: name evaluations of both priors (kdrift evaluate), or"
                " say --without-comparison"
            )
        else:
            found = contest(folders, sha256, theirs)
            told += [f"against version {champion}: {each}" for each in found]
            tags |= {f"{each.figure}_gained": f"{each.difference:.4g}" for each in found}
            if lower := [each.figure.upper() for each in found if each.difference < 0]:
                return Promotion(chosen, False, [*told, f"version {chosen} is lower in {' and '.join(lower)}"])
    set_alias(uri, name, CHAMPION, chosen, tags)
    return Promotion(chosen, True, told)
