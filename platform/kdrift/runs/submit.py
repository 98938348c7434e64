"""`kdrift VERB ... --submit ADDRESS`: the same command as a Ray job, its log streamed, its exit status returned."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrift.runs.config import parse_override, read_yaml
from kdrift.runs.config_names import RECIPES, find_config
from kdrift.runs.hint import first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

EXCLUDES = ("/.git", "/.*/", "/data", "/runs", "/demo", "/mlruns", "*.zarr", "*.h5", "__pycache__")
"""Patterns of what is not sent along with a job, besides what `.gitignore` names."""
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


def submit(verb: str, options: Any, address: str, job_name: str | None, arguments: Sequence[str]) -> int:
    """Submit the command `arguments` (verb first), which was read as `options`, and follow it to its end.

    The folder this is called in travels along, but for data and results, and so does a configuration that is meant by
    name. A job of the same name that has ended is taken up: `train` and `tune` get `--resume`, the other verbs go on
    by themselves.

    Raises ValueError while a job of the same name is running, or for output in a relative path, which would be lost;
    OSError if the cluster cannot be reached or refuses.
    """
    _check_paths(verb, options)
    cluster = address if "://" in address or address == "auto" else f"http://{address}"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = job_name or f"kdrift-{verb}-{stamp}-{secrets.token_hex(2)}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"--job-name takes letters, digits, '.', '_' and '-', got {name!r}")
    logging.disable(logging.WARNING)  # Ray tells of every file it packs
    try:
        client = _client(cluster)
        job = _start(client, cluster, name, options, without(arguments, ("--submit", "--job-name")))
        print(f"job {job} at {cluster}", flush=True)
        try:
            return _follow(client, job)
        except KeyboardInterrupt:
            print(f"\njob {job} goes on without this terminal")
            print(f"  follow it: ray job logs --follow --address {cluster} {job}")
            print(f"  stop it:   ray job stop --address {cluster} {job}")
            return 130
    finally:
        logging.disable(logging.NOTSET)


def without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command's arguments without options of these names and their values."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in names:
            next(words, None)
        elif word.partition("=")[0] not in names:
            kept.append(word)
    return kept


def entrypoint(job: str, options: Any, arguments: Sequence[str]) -> str:
    """Return the shell command of a job; a configuration that is meant by name is written to a file there first."""
    verb, *rest = arguments
    program = [f"jobs/{verb}.py"] if _is_checkout(verb) else ["-m", "kdrift", verb]
    before = ""
    config, found = _configuration(verb, options)
    if config and found is not None and found != Path(config):
        file = f"{job}.{found.name}"
        before = f"printf %s {shlex.quote(found.read_text())} > {file} && "
        rest = [*without(rest, ("--config", "--recipe")), "--config", file]
    return before + shlex.join(["python", *program, *rest])


def _configuration(verb: str, options: Any) -> tuple[str | None, Path | None]:
    """Return the configuration or recipe as it is named in the options, and its file."""
    recipe, config = getattr(options, "recipe", None), getattr(options, "config", None)
    if recipe:
        return recipe, find_config(RECIPES, recipe)
    return config, find_config(verb, config) if config else None


def _start(client: JobSubmissionClient, cluster: str, name: str, options: Any, arguments: list[str]) -> str:
    """Submit the command under the next id of `name` and return that."""
    earlier = {job.submission_id: str(job.status.value) for job in client.list_jobs() if job.submission_id}
    job = next_id(name, earlier, cluster)
    if job != name and getattr(options, "resume", None) is False:
        arguments = [*arguments, "--resume"]
    environment = {"PYTHONPATH": "platform:serve"} if _is_checkout(arguments[0]) else {}
    try:
        client.submit_job(
            entrypoint=entrypoint(job, options, arguments),
            submission_id=job,
            runtime_env={"working_dir": ".", "excludes": list(EXCLUDES), "env_vars": environment},
        )
    except (RuntimeError, ValueError) as error:
        raise OSError(f"{cluster} did not take the job: {first_line(error)}") from None
    return job


def _is_checkout(verb: str) -> bool:
    return Path("platform/kdrift").is_dir() and Path(f"jobs/{verb}.py").is_file()


def next_id(name: str, jobs: Mapping[str, str], cluster: str) -> str:
    """Return NAME, or NAME-2, NAME-3, ... after the jobs of that name (id to status) that have ended.

    Raises ValueError while one of them is running.
    """
    numbers = {}
    for job, status in jobs.items():
        match = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", job)
        if match:
            numbers[int(match[1] or 1)] = (job, status)
    for job, status in numbers.values():
        if status not in OVER:
            raise ValueError(
                f"job {job} is {status.lower()} at {cluster}: follow it with ray job logs --follow --address {cluster}"
                f" {job}, or stop it with ray job stop --address {cluster} {job}"
            )
    return f"{name}-{max(numbers) + 1}" if numbers else name


def _check_paths(verb: str, options: Any) -> None:
    """Refuse results in the job's own folder, which the cluster throws away."""
    _, path = _configuration(verb, options)
    values = read_yaml(path) if path is not None and path.is_file() else {}
    values |= dict(parse_override(text) for text in getattr(options, "set", ()))
    values |= {key: value for key in ("out", "store") if (value := getattr(options, key, None))}
    if verb in ("train", "tune") and "out" not in values:
        raise ValueError("a job needs --out: a folder that all nodes share, or a URL")
    for key in ("out", "store"):
        where = str(values.get(key, "/"))
        if "://" not in where and not os.path.isabs(where):
            raise ValueError(
                f"{key} is {where}: a job needs an absolute path that all nodes share, its own folder is not kept"
            )


def _client(cluster: str) -> JobSubmissionClient:
    """Return a client; a token that is at hand is used, as clusters that Ray starts ask for one."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if os.environ.get("RAY_AUTH_TOKEN") or token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would put them above what was asked for
        os.environ.pop(variable, None)
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(cluster)
    except (RuntimeError, ConnectionError) as error:
        raise OSError(f"no Ray dashboard answers at {cluster}: {first_line(error)}") from None


def _follow(client: JobSubmissionClient, job: str) -> int:
    """Print the log to its end, wait for the job, and return its exit status."""

    async def stream() -> None:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)

    try:
        asyncio.run(stream())
    except RuntimeError as error:
        print(f"the log broke off ({first_line(error)}); waiting for the job", flush=True)
    while (info := client.get_job_info(job)).status.value not in OVER:
        time.sleep(1)
    if info.status.value == "SUCCEEDED":
        return 0
    reason = first_line(info.message or "no reason given").partition(", last available logs")[0]
    print(f"job {job} {info.status.value.lower()}: {reason}")
    return int(info.driver_exit_code or 1)
