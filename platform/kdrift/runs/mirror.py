"""A working folder that is sent to a URL while a run writes into it.

Objects appear whole, one by one; what vouches for others (`VOUCHERS`) is sent after them, and taken away before they
are replaced. What is deleted here is deleted there, if it was sent from here or came from there.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kdrift.runs.files import read_json, write_json
from kdrift.runs.hint import first_line
from kdrift.runs.remote import Remote

VOUCHERS = ("metrics.json", "batch.json", "pathology.json", "SHA256SUMS")
"""Files that say that all beside and below them is there; they are written last, and are sent last."""
OF_THE_DATABASE = ("run.json", "mlflow/runs.json", "mlflow/versions.json")
"""Files that name what an MLflow database holds, as those with the suffix .sent count; they come after it."""
GROWING = (".jsonl", ".db", ".sent")
"""Suffixes of files that change all the time."""
HIDDEN_BUT_SENT = (".partial",)
"""Hidden folders that belong to a run; all other hidden names are of files that are being written."""
OF_THIS_MACHINE = ("ray", "progress.json")
"""Left out: what Ray keeps for itself, and what changes every second."""
SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite has beside a database while it writes."""
ROUND_S = 3.0
"""How often the folder is looked through, seconds."""
OFTEN_S = 30.0
"""How often files that grow are sent, seconds."""
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits between tries while the server does not answer; the last one again and again."""
PATIENCE_S = 20.0
"""How long the end of a run waits for a server that does not answer. One that answers is waited for."""
Stamp = list[int]
"""Size, modification time and inode of a file: what changes when it does."""


class Mirror:
    """Sends a folder to a URL by a thread of its own; what has been sent is noted in `record`.

    Parameters
    ----------
    record
        JSON file outside of the folder; its `sent` holds the stamp of each file that the URL has, null where it may
        have another one.
    may_send
        Asked before each look through the folder; once it says no, nothing more is sent.
    """

    def __init__(
        self, remote: Remote, folder: Path, record: Path, may_send: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        self._remote, self._folder, self._record, self._may_send, self._say = remote, folder, record, may_send, say
        self._sent: dict[str, Stamp | None] = read_json(record).get("sent", {})
        self._when: dict[str, float] = {}
        self._closing, self._down = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> tuple[list[str], str]:
        """Send what is left, as long as the server answers; return the files that it lacks, and why."""
        self._closing.set()
        self._thread.join()
        deadline, fewest, why, pauses = time.monotonic() + PATIENCE_S, len(self.unsent()), "", iter(PAUSES_S)
        while True:
            try:
                if not self._may_send():
                    return self.unsent(), "another run has taken it over"
                self._round(last=True)
                why = "it changed while it was sent"
            except Exception as error:  # each protocol has errors of its own
                why = first_line(error)[:200]
            left = self.unsent()
            if not left:
                return [], ""
            if len(left) < fewest:  # it answers from time to time
                fewest, deadline = len(left), time.monotonic() + PATIENCE_S
            pause = next(pauses, PAUSES_S[-1])
            if time.monotonic() + pause > deadline:
                return left, why
            time.sleep(pause)

    def unsent(self) -> list[str]:
        """Return the names of the files that the URL lacks, has in another version, or has though they are gone."""
        return [name for name in differing(self._folder, self._sent) if self._due(name, True)]

    def _work(self) -> None:
        tries = 0
        while not self._closing.wait(PAUSES_S[min(tries, len(PAUSES_S)) - 1] if tries else ROUND_S):
            try:
                if not self._may_send():
                    return
                self._round()
            except Exception as error:  # whatever it is, the run goes on
                tries += 1
                if not self._down:
                    self._down = True
                    self._say(
                        f"{self._remote.url} does not take what is written ({first_line(error)[:200]}): it is kept in"
                        f" {self._folder} and sent when it does"
                    )
                continue
            if self._down:
                self._down = False
                self._say(f"{self._remote.url} takes what is written again")
            tries = 0

    def _round(self, *, last: bool = False) -> None:
        """Send and delete what has changed."""
        if not self._folder.is_dir():  # else all would be taken for deleted
            raise FileNotFoundError(f"{self._folder} is gone")
        # in this order: whatever a file that comes late speaks for was there before it, and is found after it
        late = {name: stamp for name, stamp in files_in(self._folder).items() if _comes_late(name)}
        held = self._read(
            name for name, stamp in late.items() if self._sent.get(name) != stamp and self._due(name, last)
        )
        files = {name: stamp for name, stamp in files_in(self._folder).items() if not _comes_late(name)}
        hurry = last or bool(held)  # no late file without the others as they are now
        changed = [name for name in files if self._sent.get(name) != files[name] and self._due(name, hurry)]
        for name in [name for name in self._sent if _is_voucher(name)]:
            replaced = any(_speaks_for(name, other) and other in self._sent for other in changed)
            if name not in late or (replaced and self._sent[name] is not None):
                self._delete(name, gone=name not in late)
        if new := [name for name in (*changed, *held) if name not in self._sent]:
            self._sent |= dict.fromkeys(new)  # noted first: a process that is killed knows what may be there
            self._write_record()
        for name in sorted(changed, key=lambda name: files[name][1]):
            self._send(name, files[name])
        for name, (stamp, content) in sorted(held.items(), key=lambda item: item[1][0][1]):
            # one that is older than what it speaks for is about to be replaced
            if last or not (_is_voucher(name) and any(_speaks_for(name, n) and files[n][1] > stamp[1] for n in files)):
                self._remote.write(name, content)
                self._sent[name], self._when[name] = stamp, time.monotonic()
        for name in [name for name in self._sent if name not in files and name not in late]:
            if not (self._folder / name).exists():
                self._delete(name, gone=True)
        self._write_record()

    def _due(self, name: str, hurry: bool) -> bool:
        if name.endswith(".db") and not (self._folder / "run.json").exists():  # its tables are being made
            return False
        return hurry or not name.endswith(GROWING) or time.monotonic() - self._when.get(name, -OFTEN_S) >= OFTEN_S

    def _read(self, names: Iterable[str]) -> dict[str, tuple[Stamp, bytes]]:
        """Return stamp and content of files as they are now."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError), (self._folder / name).open("rb") as stream:
                found[name] = _stamp(os.fstat(stream.fileno())), stream.read()
        return found

    def _send(self, name: str, stamp: Stamp) -> None:
        """Send one file as it is now; one that has just gone is looked for in the next round."""
        path = self._folder / name
        try:
            if name.endswith(".jsonl"):
                whole, end, _ = path.read_bytes().rpartition(b"\n")
                self._remote.write(name, whole + end)
            elif name.endswith(".db"):
                self._remote.write(name, self._database(path))
            else:
                self._remote.send(path, name)
        except FileNotFoundError:
            if path.exists():
                raise
            return
        self._sent[name], self._when[name] = stamp, time.monotonic()

    def _database(self, path: Path) -> bytes:
        """Return a database as it is between two transactions."""
        copy = self._record.with_name("copy.db")
        copy.unlink(missing_ok=True)
        source, target = sqlite3.connect(f"file:{path}?mode=ro", uri=True), sqlite3.connect(copy)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
        return copy.read_bytes()

    def _delete(self, name: str, *, gone: bool) -> None:
        self._remote.delete(name)
        if gone:
            del self._sent[name]
        else:
            self._sent[name] = None

    def _write_record(self) -> None:
        write_json(self._record, {**read_json(self._record), "sent": self._sent}, durable=False)


def files_in(folder: Path) -> dict[str, Stamp]:
    """Return the stamps of the files of a run by their names, without those that are being written."""
    found: dict[str, Any] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # what went while it was looked at
            for entry in os.scandir(folder / below):
                name = f"{below}{entry.name}"
                if not is_sent(name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    elif entry.is_file():
                        found[name] = _stamp(os.stat(entry.path))
    return found


def is_sent(name: str) -> bool:
    """Whether a file or folder of this name, relative to its run's folder, belongs to what a run leaves."""
    parts = name.split("/")
    hidden = any(part.startswith(".") and part not in HIDDEN_BUT_SENT for part in parts)
    outside = "" in parts or ".." in parts  # what no file here is called, but an object can be
    return not (hidden or outside or parts[0] in OF_THIS_MACHINE or name.endswith(SIDE_FILES))


def differing(folder: Path, sent: dict[str, Stamp | None]) -> list[str]:
    """Return the names of files that are not there as they were sent, and of sent ones that are gone."""
    files = files_in(folder)
    return sorted({name for name, stamp in files.items() if sent.get(name) != stamp} | (sent.keys() - files.keys()))


def _stamp(found: os.stat_result) -> Stamp:
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _is_voucher(name: str) -> bool:
    return name.rpartition("/")[2] in VOUCHERS


def _comes_late(name: str) -> bool:
    return _is_voucher(name) or name in OF_THE_DATABASE or name.endswith(".sent")


def _speaks_for(voucher: str, name: str) -> bool:
    folder = voucher.rpartition("/")[0]
    return not folder or name.startswith(f"{folder}/")
