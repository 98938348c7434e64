"""What a request asks for, strictly parsed and within the limits."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from kdrift.data.paths import leads_out, link_out
from kdrift.methods import METHODS, Method
from kdrift.methods.presets import preset_folder
from kdrift.prior.bundle import Prior, shipped_priors
from kdrift.recon.acquisition import Acquisition, load_acquisition
from kdrift.recon.given_maps import STORED
from kdrift.recon.outputs import read_outputs
from kdrift.recon.plan import Plan
from kdrift.recon.request import AcquisitionOptions, MaskRequest
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sentences import named, without_dashes
from kdrift.recon.slices import ZERO
from kdrift.runs.config import parse
from kdrift.runs.hint import suggest
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import Limits

MAX_JSON_BYTES = 64 << 10
SECTIONS = ("plan", "plan.settings", "mask")
_FILE_NAME = re.compile(r"[^\x00-\x1f/\\]{1,200}")


@dataclass(frozen=True, kw_only=True)
class JobRequest(AcquisitionOptions):
    """A reconstruction to make. Where a file is sent, `path`, `example` and `upload` stay empty."""

    path: str | None = None
    """File, or volume of a store (`X.zarr/NAME`), under one of the service's roots."""
    example: Literal["phantom"] | None = None
    """Built-in data instead of a file: a simulated head scan."""
    upload: str | None = None
    """A finished upload of /v1/uploads instead of a file, by its id or address."""
    name: str | None = None
    """Name of an uploaded file; its suffix helps to tell the format."""
    plan: Plan = field(default_factory=Plan)
    prior: str | None = None
    """Served name of a prior; None: the first that serves the method, of the images it was made for if there is one."""
    output: str = "h5"
    """What is made besides reconstruction.h5: some of nifti, dicom, ismrmrd, bart, such as h5,nifti,dicom."""
    max_seconds: float | None = None
    """Do only as many of the method's steps as are expected to be done in this time, waiting left out; null: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_outputs(self.output)
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0, got {self.max_seconds:g}")

    def config(self, plan: ResolvedPlan, prior: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of its results: the plan's, with the prior as the service names it."""
        found = plan.config | ({"prior": dict(prior)} if prior else {})
        return found | ({"max_seconds": self.max_seconds} if self.max_seconds is not None else {})


def from_json(body: bytes) -> JobRequest:
    """Parse a JSON body. Raises `Problem` (400, 413 or 422)."""
    if len(body) > MAX_JSON_BYTES:
        raise Problem(413, f"the JSON is over {MAX_JSON_BYTES >> 10} KiB; k-space goes as a file, not as JSON")
    try:
        values = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not valid JSON") from None
    if not isinstance(values, dict):
        raise Problem(422, f"expected a JSON object, got {type(values).__name__}")
    return options_of(values)


def from_query(items: Iterable[tuple[str, str]]) -> JobRequest:
    """Parse `plan.num_samples=8&mask.kind=equispaced`; values are JSON or plain text. Raises `Problem` (422)."""
    values: dict[str, Any] = {}
    for key, text in items:
        section, _, last = key.rpartition(".")
        place = values
        if section:
            if section not in SECTIONS:
                raise Problem(422, f"unknown option {key[:80]!r}{suggest(section, SECTIONS)}")
            for part in section.split("."):
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise Problem(422, f"{section} is given both as a whole and in parts")
        if last in place:
            raise Problem(422, f"{key[:80]} is given twice")
        place[last] = text
        if key != "name":  # a file may be called 12345, or null
            with contextlib.suppress(ValueError, RecursionError):
                place[last] = json.loads(text, object_pairs_hook=_once)
    return options_of(values)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises `Problem` (422) for a key that it has twice: which one is meant nobody knows."""
    twice = doubled(key for key, _ in pairs)
    if twice is not None:
        raise Problem(422, f"{twice[:80]!r} is given twice")
    return dict(pairs)


def doubled(keys: Iterable[Any]) -> Any:
    """Return the first key that is there twice, None where none is."""
    return next((key for key, count in Counter(keys).items() if count > 1), None)


def options_of(values: Mapping[str, Any]) -> JobRequest:
    """Return the request that nested values make. Raises `Problem` (422)."""
    try:
        request = parse(JobRequest, values, "request")
        _check_finite(asdict(request))
    except (ValueError, TypeError) as error:
        raise Problem(422, without_folders(str(error))) from None
    except RecursionError:
        raise Problem(422, "request: nested too deeply") from None
    return request


def without_folders(text: str) -> str:
    """Return a sentence about presets without the folder that this machine has them in."""
    folder = preset_folder()
    return text if folder is None else text.replace(f"{folder}{os.sep}", "")


def _check_finite(values: Any, where: str = "request") -> None:
    if isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{where} is {values}, expected a finite number")
    if isinstance(values, str) and "\x00" in values:
        raise ValueError(f"{where} holds a NUL character")
    if isinstance(values, str) and any("\ud800" <= letter <= "\udfff" for letter in values):
        raise ValueError(f"{where} holds half a character (a lone surrogate)")
    for key, value in values.items() if isinstance(values, dict) else ():
        _check_finite(value, f"{where}: {key}")


def in_our_words(text: str) -> str:
    """Return a sentence that names options of the command with those of a request in their place."""
    return without_dashes(text, centred="centred: true", not_centred="centred: false")


def upload_name(name: str | None) -> str:
    """Return a harmless file name with the suffix of the one given. Raises `Problem` (422) for a path."""
    if name is None:
        return "upload"
    if not _FILE_NAME.fullmatch(name) or name.startswith("."):
        raise Problem(422, "name is the name of a file, such as scan.h5: no folders, no leading dot")
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def allowed_path(path: str, roots: list[Path]) -> Path:
    """Find a path, absolute or below one of `roots`. Raises `Problem` (403, 404 or 422).

    Nothing of it may lie elsewhere, links resolved: neither itself, nor a file that is opened with it.
    """
    if not roots:
        raise Problem(403, "this service reads no files by path: upload the file instead")
    try:
        folders = [str(root.resolve()) for root in roots]
        found = [place for root in roots if not leads_out(str(place := Path(os.path.abspath(root / path))), folders)]
        found = [place for place in found if str(place.resolve()) not in folders]
        if not found:
            raise Problem(403, "path lies outside of the folders that this service reads")
        existing = [place for place in found if place.exists()]
        for place in existing:
            if link := link_out(str(place), folders):
                name = os.path.basename(link)
                raise Problem(403, f"path has a link, {name}, that leads out of the folders that this service reads")
    except (OSError, ValueError, RuntimeError):
        raise Problem(422, "path is not a possible path") from None
    if not existing:
        raise Problem(404, "path: there is no such file")
    return existing[0]


def resolve_plan(request: JobRequest, priors: Mapping[str, Prior], limits: Limits) -> ResolvedPlan:
    """Resolve the plan, once: every mistake in it is told before anything is read or waits. Raises `Problem` (422)."""
    plan = request.plan
    try:
        if plan.start_prior is not None and plan.start_prior not in shipped_priors():
            raise ValueError(
                f"start_prior: this service reads no networks by path, and none that comes with kdrift is called"
                f" {plan.start_prior!r}{suggest(plan.start_prior, shipped_priors())}"
            )
        _check_whole(request, limits)
        resolved = plan.resolve(priors[choose_prior(request, priors)])
        chains = [resolved.options, *([resolved.spread] if resolved.spread else [])]
        evaluations, most = max(each.evaluations for each in chains), limits.evaluations
        if evaluations > most:
            raise ValueError(f"{evaluations} network evaluations a chain, this service takes at most {most}")
        check_cost(resolved, 1, 1, limits)
    except (ValueError, TypeError) as error:
        raise Problem(422, without_folders(str(error))) from None
    return resolved


def _check_whole(request: JobRequest, limits: Limits) -> None:
    """Raise ValueError for whole numbers beyond the limits; before a plan is resolved, which counts up to some."""
    plan = request.plan
    if plan.num_samples > limits.samples or plan.batch_samples > limits.batch_samples:
        raise ValueError(
            f"at most num_samples {limits.samples} and batch_samples {limits.batch_samples}, got"
            f" {plan.num_samples} and {plan.batch_samples}"
        )
    if max(plan.seed, request.mask.seed if request.mask else 0) >= 2**63:
        raise ValueError("seed must be below 2^63")
    known = fields(METHODS[plan.method].options) if plan.method in METHODS else ()
    for name in (each.name for each in known if str(each.type).startswith("int")):
        if _beyond(plan.settings.get(name), limits.iterations):
            raise ValueError(f"{name} is {plan.settings[name]}, this service takes at most {limits.iterations}")


def _beyond(value: Any, most: int) -> bool:
    """Whether a value is a number above `most`; what is no number is told where it is parsed."""
    try:
        return float(value) > most
    except OverflowError:
        return True
    except (TypeError, ValueError):
        return False


def check_cost(plan: ResolvedPlan, num_slices: int, num_coils: int, limits: Limits) -> None:
    """Raise ValueError where all chains of a request take too many evaluations: those of samples, mean and check."""
    evaluations = num_slices * plan.evaluations(num_coils)
    if evaluations > limits.job_evaluations:
        raise ValueError(
            f"{evaluations} network evaluations in all ({num_slices} slices, all chains for samples, mean and check),"
            f" this service takes at most {limits.job_evaluations}: ask for fewer slices, samples or steps"
        )


def choose_prior(request: JobRequest, priors: Mapping[str, Prior]) -> str:
    """Return the served name of the prior for a request: the one it names, else the first that serves its method.

    Raises ValueError for an unknown name, a prior that cannot serve the method, and a method that none here serves.
    """
    name, method = request.prior, METHODS.get(request.plan.method)
    if name is not None and name not in priors:
        raise ValueError(f"no prior {name!r}{suggest(name, priors)}")
    if method is None or not method.needs_prior:
        return name or next(iter(priors))
    able = serving(method, priors)
    if not able:
        raise ValueError(
            f"method {request.plan.method} needs {method.wanted}"
            f"{f' of {method.only} images' if method.only else ''}; this service has none"
        )
    if name is not None and name not in able:
        raise ValueError(
            f"method {request.plan.method} {_refusal(method, name, priors[name])}; priors here that can serve it:"
            f" {', '.join(able)}"
        )
    return name or able[0]


def serving(method: Method, priors: Mapping[str, Prior]) -> list[str]:
    """Return the served names of the priors that can serve a method, those of the images it was made for first."""
    able = [name for name, prior in priors.items() if not _refusal(method, name, prior)]
    return sorted(able, key=lambda name: priors[name].network_config.images != method.images)


def _refusal(method: Method, name: str, prior: Prior) -> str:
    return method.refusal(name, prior.task, prior.network_config.images)


def given_files(request: JobRequest, roots: list[Path]) -> dict[str, str]:
    """Return the paths of the files that a request names beside its data. Raises `Problem` as `allowed_path` does."""
    given = {
        "noise_cov": request.noise_cov, "noise_scan": request.noise_scan,
        "smaps": None if request.smaps == STORED else request.smaps,
        "mask": request.mask.file if request.mask else None,
    }  # fmt: skip
    return {name: str(allowed_path(path, roots)) for name, path in given.items() if path is not None}


def load(request: JobRequest, source: Path, shown: str, roots: list[Path], max_bytes: int) -> Acquisition:
    """Read and undersample what a request asks for, at most `max_bytes` of k-space.

    Raises ValueError with a sentence that names the file `shown`, and `Problem` for files beside it that may not be
    read.
    """
    allowed: dict[str, Any] = given_files(request, roots)
    changes = allowed | ({"mask": MaskRequest(file=allowed["mask"])} if "mask" in allowed else {})
    try:
        acquisition = load_acquisition(request.of(str(source), max_bytes=max_bytes, **changes))
    except ValueError as error:
        text = str(error)
        for name, path in allowed.items():
            text = text.replace(path, name)
        raise ValueError(in_our_words(text.replace(str(source), shown).replace(str(source.parent), ""))) from None
    if not bool((acquisition.kspace != 0).any()):
        raise ValueError(f"{shown}: {named(acquisition.slice_indices[0], ZERO)}")
    return acquisition
