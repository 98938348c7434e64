"""A client of the service: send k-space, follow the job, have its images as arrays."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from kdrift import resumable
from kdrift.client_request import flat, number, opened, plain
from kdrift.resumable import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from kdrift.recon.plan import Plan
    from kdrift.recon.request import MaskRequest

T = TypeVar("T")
Job = dict[str, Any]
"""A job as the service tells it: id, state, progress, config, notes, verdicts, report, links and more."""
Following = Callable[[Job], object]
"""Called with the job whenever it was asked for; what it raises stops the waiting, not the job."""
ADDRESS = "http://127.0.0.1:8000"
KEY_VARIABLE = "KDRIFT_API_KEY"
ACTIVE = ("queued", "running")
RESUMABLE_BYTES = 32 << 20
"""Larger files are sent so that a lost connection does not begin them again."""
AWAY_S = 300.0
"""How long the end of a job is waited for while the service does not answer, as when it is started again."""
_POLL_S = 1.0
_AWAY = (0, 502, 503, 504)
_TRIES, _LONGEST_PAUSE_S = 5, 30.0
_JOBS = "/v1/reconstructions"


class ServiceError(Exception):
    """What the service did not do, in its own sentence; `status` is that of HTTP, 0 where it did not answer."""

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


@dataclasses.dataclass(frozen=True)
class ServiceResult:
    """The images of a job, as `reconstruction.h5` has them."""

    job: Job
    """The job that they are of, with its verdicts and notes."""
    mean: npt.NDArray[np.float32]
    """Magnitudes `(slice, row, col)`, on the scale of the data."""
    std: npt.NDArray[np.float32]
    """Their standard deviation; zero for a method that draws no samples."""
    arrays: dict[str, npt.NDArray[Any]]
    """What else the result has by name: `mask`, `lower`, `upper`, `reference`, `samples`."""
    report: dict[str, Any]
    """What `metrics.json` says."""


class Client:
    """Speaks with a service. Use it in a `with` block, or close it.

    Parameters
    ----------
    address
        Where the service is, such as https://mri.example.org.
    key
        API key; None: that of the environment variable KDRIFT_API_KEY, if it is set. White space around it, as at the
        end of a file, is left out.
    timeout_s
        Seconds that the service may be silent.
    """

    def __init__(self, address: str = ADDRESS, key: str | None = None, *, timeout_s: float = 60.0) -> None:
        key = (os.environ.get(KEY_VARIABLE, "") if key is None else key).strip()
        if not all("!" <= letter <= "~" for letter in key):
            raise ValueError("the API key has characters that no key has: expected letters, digits and signs of ASCII")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def reconstruct(
        self,
        source: str | os.PathLike[str] | npt.NDArray[Any] | Tensor,
        *,
        plan: Plan | Mapping[str, Any] | None = None,
        mask: MaskRequest | Mapping[str, Any] | None = None,
        follow: Following | None = None,
        progress: Progress | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> ServiceResult:
        """Submit k-space, wait for the end and return the images; see `submit` and `wait`.

        Raises `ServiceError` where the service refuses it, or it ends without a result.
        """
        job_id = self.submit(source, plan=plan, mask=mask, progress=progress, **options)
        self.wait(job_id, follow=follow, timeout_s=timeout_s)
        return self._though_away(job_id, lambda: self.result(job_id))

    def submit(
        self,
        source: str | os.PathLike[str] | npt.NDArray[Any] | Tensor,
        *,
        plan: Plan | Mapping[str, Any] | None = None,
        mask: MaskRequest | Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> str:
        """Send k-space, a file of this machine or an array `([slice,] coil, row, col)`, and return the id of its job.

        `options` are the others of a request: `slices`, `prior`, `output`, `max_seconds`, ... (see /docs of the
        service). What is larger than `RESUMABLE_BYTES` goes in several requests, which a lost connection or a restart
        of the service interrupts and does not end; `progress` is called with the bytes that are there, and those in
        all. Files of the service's machine go by `submit_path`. Raises `ServiceError`; FileNotFoundError where there
        is no such file.
        """
        asked = {"plan": plain(plan), "mask": plain(mask), **options}
        with opened(source) as (name, file):
            size = file.seek(0, io.SEEK_END)
            if size <= RESUMABLE_BYTES:
                file.seek(0)
                query = {**dict(flat(asked)), "name": name}
                kind = {"Content-Type": "application/octet-stream"}
                answer = self._ask("POST", _JOBS, params=query, content=file.read(), headers=kind)
                if progress is not None:
                    progress(size, size)
                return str(_json(answer)["id"])
            upload = self._upload(file, size, name, progress)
        try:
            return self._submit({"upload": upload, **asked})
        finally:
            resumable.remove(self._http, upload)

    def _upload(self, file: BinaryIO, size: int, name: str, progress: Progress | None) -> str:
        try:
            return resumable.send(self._http, file, size, name, progress)
        except httpx.HTTPStatusError as error:
            raise ServiceError(sentence_of(error.response), error.response.status_code) from None
        except httpx.HTTPError as error:
            raise self._away(error) from None

    def submit_path(
        self,
        path: str,
        *,
        plan: Plan | Mapping[str, Any] | None = None,
        mask: MaskRequest | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Name a file below the roots of the service, or a volume of a store, and return the id of its job."""
        return self._submit({"path": path, "plan": plain(plan), "mask": plain(mask), **options})

    def _submit(self, asked: Mapping[str, Any]) -> str:
        given = {name: value for name, value in asked.items() if value is not None}
        content = json.dumps(given, default=number)
        headers = {"Content-Type": "application/json"}
        return str(_json(self._ask("POST", _JOBS, content=content, headers=headers))["id"])

    def page(self, job_id: str) -> str:
        """Return the address of the service's page with a job in it, for a browser."""
        return f"{str(self._http.base_url).rstrip('/')}/#/jobs/{job_id}"

    def status(self, job_id: str, *, wait_s: float = 0.0) -> Job:
        """Return a job: when it has ended, at the latest after `wait_s` seconds (60 at most)."""
        return _json(self._ask("GET", f"{_JOBS}/{job_id}", params={"wait": wait_s}))

    def wait(self, job_id: str, *, follow: Following | None = None, timeout_s: float | None = None) -> Job:
        """Return a job when it has ended; `follow` is called about once a second until then, and with the last.

        A service that does not answer, as one that is started again, is asked for `AWAY_S` seconds. Raises TimeoutError
        after `timeout_s` seconds: the job goes on.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _POLL_S if until is None else min(_POLL_S, until - time.monotonic())
            job = self._though_away(job_id, lambda: self.status(job_id, wait_s=max(0.0, left)))  # noqa: B023 (now)
            if follow is not None:
                follow(job)
            if job["state"] not in ACTIVE:
                return job
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"job {job_id} is {job['state']} after {timeout_s:g} s; it goes on")

    def _though_away(self, job_id: str, ask: Callable[[], T]) -> T:
        """Ask, again and again while nobody answers. Raises `ServiceError`, which names the job."""
        began = time.monotonic()
        while True:
            try:
                return ask()
            except ServiceError as error:
                if error.status not in _AWAY:
                    raise
                if time.monotonic() - began > AWAY_S:
                    raise ServiceError(f"{error}; job {job_id} may have gone on", error.status) from None
                time.sleep(_POLL_S)

    def result(self, job_id: str) -> ServiceResult:
        """Return the images of a job that is done. Raises `ServiceError` where it has none, with the reason."""
        job = self.status(job_id)
        answer = self._ask("GET", f"{_JOBS}/{job_id}/result", params={"format": "npz"})
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        report: dict[str, Any] = json.loads(str(arrays.pop("kdrift")))
        return ServiceResult(job, arrays.pop("reconstruction"), arrays.pop("std"), arrays, report)

    def save(self, job_id: str, path: str | os.PathLike[str], *, format: str = "h5") -> Path:
        """Write the result of a job to a file, in any form that the service has, and return its path."""
        from kdrift.runs.files import whole_file

        with whole_file(path) as temporary, temporary.open("wb") as file:
            file.write(self._ask("GET", f"{_JOBS}/{job_id}/result", params={"format": format}).content)
        return Path(path)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that waits or runs. Raises `ServiceError` (409) where it has ended."""
        return _json(self._ask("DELETE", f"{_JOBS}/{job_id}"))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its results. Raises `ServiceError` (409) where it has not."""
        self._ask("DELETE", f"{_JOBS}/{job_id}", params={"results": True})

    def jobs(self, *, state: str | None = None) -> Iterator[Job]:
        """Yield the jobs of the key, the newest first, each in brief."""
        address: str | None = f"{_JOBS}?count=100{f'&state={state}' if state is not None else ''}"
        while address is not None:
            found = _json(self._ask("GET", address))
            yield from found["reconstructions"]
            address = found["links"]["next"]

    def _ask(self, method: str, path: str, **values: Any) -> httpx.Response:
        """Ask the service. Raises `ServiceError` for whatever is no answer that was wanted.

        Asking too often is put right by waiting, for as long as the service says.
        """
        for _ in range(_TRIES):
            try:
                answer = self._http.request(method, path, **values)
            except httpx.HTTPError as error:
                raise self._away(error) from None
            if answer.is_success:
                return answer
            if answer.is_redirect:
                raise ServiceError(f"the service at {self._http.base_url} has moved: {answer.headers.get('location')}")
            if answer.status_code != 429 or method != "GET":
                break
            time.sleep(_pause_s(answer))
        raise ServiceError(sentence_of(answer), answer.status_code)

    def _away(self, error: httpx.HTTPError) -> ServiceError:
        said = str(error) or type(error).__name__
        return ServiceError(f"the service at {self._http.base_url} does not answer: {said}")


def _json(answer: httpx.Response) -> dict[str, Any]:
    """Return the values of an answer. Raises `ServiceError` where it has none, as what is no kdrift service gives."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServiceError(f"{answer.url.copy_with(query=None)} answers something else: is this address a service's?")
    return found


def _pause_s(answer: httpx.Response) -> float:
    """Return how long to wait before asking again; a date, as of what stands before the service, is a second."""
    try:
        return min(max(float(answer.headers["Retry-After"]), 0.0), _LONGEST_PAUSE_S)
    except (KeyError, ValueError):
        return _POLL_S


def sentence_of(answer: httpx.Response) -> str:
    """Return what an answer that is an error says."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):  # not of the service, but of what stands before it
        return f"the service answered {answer.status_code} {answer.reason_phrase}".strip()
