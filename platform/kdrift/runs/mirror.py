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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdrift.runs.files import read_json, write_json
from kdrift.runs.hint import first_line
from kdrift.runs.remote import Remote

VOUCHERS = ("metrics.json", "batch.json", "SHA256SUMS")
"""Files that say that all beside and below them is there; they are written last, and are sent last."""
HIDDEN_BUT_SENT = (".partial",)
"""Hidden folders that belong to a run; all other hidden names are of files that are being written."""
OF_THIS_MACHINE = ("ray", "progress.json")
"""Left out: what Ray keeps for itself, and what changes every second."""
SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite has beside a database while it writes."""
ROUND_S = 3.0
"""How often the folder is looked through, seconds."""
OFTEN_S = 30.0
"""How often files that grow (journals, databases) are sent, seconds."""
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

    def close(self) -> tuple[int, str]:
        """Send what is left, as long as the server answers; return how many files it lacks, and why."""
        self._closing.set()
        self._thread.join()
        deadline, before, why = time.monotonic() + PATIENCE_S, -1, ""
        for pause in (*PAUSES_S, *(PAUSES_S[-1] for _ in range(1000))):
            try:
                if not self._may_send():
                    why = "another run has taken it over"
                    break
                self._round(last=True)
            except Exception as error:  # each protocol has errors of its own
                why = first_line(error)[:200]
                left = len(self.unsent())
                if left < before:  # it answers from time to time
                    deadline = time.monotonic() + PATIENCE_S
                before = left
                if time.monotonic() + pause > deadline:
                    break
                time.sleep(pause)
                continue
            break
        return len(self.unsent()), why

    def unsent(self) -> list[str]:
        """Return the names of the files that the URL lacks, has in another version, or has though they are gone."""
        return differing(self._folder, self._sent)

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
        vouchers = {name: stamp for name, stamp in files_in(self._folder).items() if _is_voucher(name)}
        files = {name: stamp for name, stamp in files_in(self._folder).items() if not _is_voucher(name)}
        # in this order: whatever a voucher that was seen speaks for has been seen as well
        changed = [name for name, stamp in files.items() if self._sent.get(name) != stamp and (last or self._due(name))]
        changed.sort(key=lambda name: files[name][1])
        replaced = [name for name in changed if name in self._sent]
        for name in [name for name in self._sent if _is_voucher(name)]:
            folder = name.rpartition("/")[0]
            speaks = [other for other in replaced if not folder or other.startswith(f"{folder}/")]
            if name not in vouchers or (speaks and self._sent[name] is not None):
                self._delete(name, gone=name not in vouchers)
        new = [name for name in (*changed, *vouchers) if name not in self._sent]
        if new:  # noted before they are sent: a process that is killed knows what may be there
            self._sent |= dict.fromkeys(new)
            self._write_record()
        for name in changed:
            self._send(name, files[name])
        for name, stamp in sorted(vouchers.items(), key=lambda item: item[1][1]):
            if self._sent.get(name) != stamp:
                self._send(name, stamp)
        for name in [name for name in self._sent if name not in files and name not in vouchers]:
            if not (self._folder / name).exists():
                self._delete(name, gone=True)
        self._write_record()

    def _due(self, name: str) -> bool:
        return not name.endswith((".jsonl", ".db")) or time.monotonic() - self._when.get(name, -OFTEN_S) >= OFTEN_S

    def _send(self, name: str, stamp: Stamp) -> None:
        """Send one file as it is now; one that has just gone is looked for in the next round."""
        path = self._folder / name
        try:
            if name.endswith(".jsonl"):
                whole, end, _ = path.read_bytes().rpartition(b"\n")
                self._remote.write(name, whole + end)
            elif name.endswith(".db"):
                self._remote.write(name, self._database(path))
            elif _is_voucher(name):
                with path.open("rb") as stream:
                    if _stamp(os.fstat(stream.fileno())) != stamp:  # a newer one, which speaks for newer files
                        return
                    self._remote.write(name, stream.read())
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
    return not (hidden or parts[0] in OF_THIS_MACHINE or name.endswith(SIDE_FILES))


def differing(folder: Path, sent: dict[str, Stamp | None]) -> list[str]:
    """Return the names of files that are not there as they were sent, and of sent ones that are gone."""
    files = files_in(folder)
    return sorted({name for name, stamp in files.items() if sent.get(name) != stamp} | (sent.keys() - files.keys()))


def _stamp(found: os.stat_result) -> Stamp:
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _is_voucher(name: str) -> bool:
    return name.rpartition("/")[2] in VOUCHERS
