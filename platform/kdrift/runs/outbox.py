"""What MLflow is told: written to a file first, sent by a thread of its own. An outage stops and loses nothing."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdrift.runs import registry, tracking
from kdrift.runs.files import only_user, read_json, whole_lines, write_json
from kdrift.runs.hint import first_line

MAIN = "main"
"""The key of the run that a folder belongs to; its children have others."""
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Waits between tries while MLflow does not answer; the last one again and again."""
PATIENCE_S = 5.0
"""How long the end of a run waits for an MLflow that does not answer. One that answers is waited for."""


class Outbox:
    """Sends the figures, tags, files and ends of a run and its children to MLflow, in the order they were given.

    An entry is a line of a file in `folder`, which goes when all are sent. What processes that are gone have left there
    is sent first. What MLflow refuses (a name it does not take) is left out and said.
    """

    def __init__(self, folder: Path, uri: str, run_id: str, *, echo: Callable[[str], None] = print) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._uri, self._echo = folder, uri, echo
        self._runs = {MAIN: run_id, **read_json(folder / "runs.json")}
        self._path = folder / f"{uuid.uuid4().hex}.jsonl"
        self._path.touch()
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(only_user(self._path, f"{self._path} is being sent"))
        self._sent, self._entries = 0, list[dict[str, Any]]()
        self._take_over()
        self._given = threading.Condition()
        self._closing = self._down = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def create(self, key: str, name: str, parameters: Mapping[str, Any], artifacts: Path) -> None:
        """Begin a child of the main run, or take it up again; `key` names it in the other calls."""
        values = {"name": name, "parameters": dict(parameters), "artifacts": str(artifacts)}
        self._give("create", key, values)

    def resume(self) -> None:
        """Mark the main run as running again."""
        self._give("resume", MAIN, {})

    def keep_children(self) -> None:
        """Delete the children of the main run that no call of `create` began: a process was killed in between."""
        self._give("keep_children", MAIN, {})

    def metrics(self, values: Mapping[str, float], step: int, key: str = MAIN) -> None:
        """Log figures at a step, with the time of now."""
        self._give("metrics", key, {"values": dict(values), "step": step, "unix_time": time.time()})

    def dataset(self, name: str, digest: str, context: str) -> None:
        """Name data of the main run, with their digest and what they are for: `training`, `validation`, `search`."""
        self._give("dataset", MAIN, {"name": name, "digest": digest, "context": context})

    def tag(self, name: str, value: str, key: str = MAIN) -> None:
        """Set a tag."""
        self._give("tag", key, {"name": name, "value": value})

    def describe(self, text: str, rest: str) -> None:
        """Give the main run a description in Markdown; `rest` says where all of it is, if MLflow takes less."""
        self.tag(tracking.DESCRIPTION, tracking.short_text(text, rest))

    def file(self, path: Path, folder: str | None = None, key: str = MAIN) -> None:
        """Copy a file, as it is when it is sent, to the run's artifacts."""
        self._give("file", key, {"path": str(path), "folder": folder})

    def register(self, bundle: Path, name: str) -> None:
        """Register a prior's folder as a version of a model."""
        self._give("register", MAIN, {"bundle": str(bundle), "name": name})

    def finish(self, status: str, reason: str = "", key: str = MAIN) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self._give("finish", key, {"status": status, "reason": reason})

    def close(self) -> int:
        """Send what is left, as long as MLflow answers; return how many entries are kept for later."""
        with self._given:
            self._closing, self._deadline = True, time.monotonic() + PATIENCE_S
            self._given.notify()
        self._thread.join()
        left = len(self._entries) - self._sent
        if not left:
            _remove(self._path)
        self._stack.close()
        return left

    def _take_over(self) -> None:
        """Make the entries that processes that are gone could not send this outbox's first ones, the oldest first."""
        for path in sorted(self._folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime):
            if path == self._path or not path.stat().st_size:  # or a new one, whose process is about to lock it
                continue
            with contextlib.suppress(ValueError, FileNotFoundError), only_user(path, "its process is alive"):
                left = whole_lines(path)[int(read_json(_sent(path)).get("entries", 0)) :]
                with self._path.open("ab") as stream:
                    stream.writelines(line + b"\n" for line in left)
                self._entries += [json.loads(line) for line in left]
                _remove(path)

    def _give(self, what: str, key: str, values: dict[str, Any]) -> None:
        entry = {"what": what, "run": key, **values}
        with self._given:
            with self._path.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            self._entries.append(entry)
            self._given.notify()

    def _work(self) -> None:
        tries = 0
        while True:
            with self._given:
                while self._sent == len(self._entries):
                    if self._closing:
                        return
                    self._given.wait()
                entry = self._entries[self._sent]
            try:
                self._send(entry)
            except Exception as error:
                if not tracking.is_refusal(error):
                    if not self._down:
                        self._down = True
                        self._echo(
                            f"MLflow at {self._uri} does not answer ({first_line(error)[:200]}): what it is to be"
                            f" told is kept in {self._folder} and sent when it does"
                        )
                    if time.monotonic() > self._deadline:
                        return
                    self._pause(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                    tries += 1
                    continue
                self._echo(f"MLflow refused {_told(entry)}: {first_line(error)[:300]}")
            if self._down:
                self._down, tries = False, 0
                self._echo(f"MLflow at {self._uri} answers again")
            self._sent += 1
            write_json(_sent(self._path), {"entries": self._sent}, durable=False)

    def _pause(self, seconds: float) -> None:
        """Wait, at most to the deadline; `close` ends the wait."""
        with self._given:
            closing, left = self._closing, self._deadline - time.monotonic()
            self._given.wait_for(lambda: self._closing != closing, min(seconds, max(left, 0)))

    def _send(self, entry: dict[str, Any]) -> None:
        uri, what = self._uri, entry["what"]
        if what == "create":
            self._create(entry)
            return
        run_id = self._runs[entry["run"]]
        if what == "metrics":
            tracking.log_metrics(uri, run_id, entry["values"], entry["step"], unix_time=entry["unix_time"])
        elif what == "tag":
            tracking.set_tag(uri, run_id, entry["name"], entry["value"])
        elif what == "file":
            tracking.log_file(uri, run_id, Path(entry["path"]), entry["folder"])
        elif what == "dataset":
            tracking.log_dataset(uri, run_id, entry["name"], entry["digest"], entry["context"])
        elif what == "resume":
            tracking.resume_run(uri, run_id)
        elif what == "keep_children":
            tracking.keep_children(uri, run_id, set(self._runs.values()))
        elif what == "register":
            version = registry.register_prior(uri, run_id, Path(entry["bundle"]), entry["name"])
            self._note("versions.json", {entry["name"]: version})
        else:
            tracking.finish_run(uri, run_id, entry["status"], entry["reason"])

    def _create(self, entry: dict[str, Any]) -> None:
        key = entry["run"]
        if key in self._runs:
            tracking.resume_run(self._uri, self._runs[key])
            return
        artifacts, parent = Path(entry["artifacts"]), self._runs[MAIN]
        self._runs[key] = tracking.start_run(self._uri, entry["name"], entry["parameters"], artifacts, parent=parent)
        self._note("runs.json", {key: self._runs[key]})

    def _note(self, name: str, values: dict[str, str]) -> None:
        write_json(self._folder / name, {**read_json(self._folder / name), **values})


def registered(folder: Path, name: str) -> str | None:
    """Return the version under which an outbox of this folder registered a prior; None where it has not yet."""
    version: str | None = read_json(folder / "versions.json").get(name)
    return version


def send_left(folder: Path, uri: str, run_id: str, *, echo: Callable[[str], None] = print) -> int:
    """Send what processes that are gone could not send; return how many entries are left again."""
    return Outbox(folder, uri, run_id, echo=echo).close()


def _sent(path: Path) -> Path:
    """The file that says how many entries of an outbox's file have been sent."""
    return path.with_suffix(".sent")


def _remove(path: Path) -> None:
    for each in (_sent(path), path):
        each.unlink(missing_ok=True)


def _told(entry: dict[str, Any]) -> str:
    detail = next((str(entry[name]) for name in ("path", "name", "bundle", "status") if name in entry), "")
    return f"{entry['what']} {detail}".strip()
