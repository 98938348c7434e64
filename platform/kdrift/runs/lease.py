"""One writer at a URL at a time: an object that says who, which its owner renews.

Clocks of machines are not compared: whoever finds the lease of another watches whether it is renewed. Where the storage
can (`Remote.write_if`), an object is only written over as it was found, so that of two who find it free one gets it.
Elsewhere it is written and read back after a moment.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from kdrift.runs.remote import Remote

LEASE = ".kdrift-lease.json"
"""The object that says who writes, and who wrote last."""
RENEW_S = 10.0
"""How often an owner renews its lease, seconds."""
WATCH_S = 40.0
"""A lease that is not renewed for so long has been abandoned, seconds."""
SETTLE_S = 1.0
"""How long a new owner that cannot be sure waits to see whether another took it at the same time, seconds."""


class Lease:
    """The right to write at a URL.

    Parameters
    ----------
    token
        What all runs of one working folder have in common: whoever holds the folder's lock is the only one of them.
    say
        Told what happens, in lines.
    """

    def __init__(self, remote: Remote, token: str, say: Callable[[str], None]) -> None:
        self._remote, self._token, self._say = remote, token, say
        self.session = uuid.uuid4().hex
        """Name of the time between `take` and `release`."""
        self.lost = False
        """Whether another one has taken it since."""
        self._taken = False
        self._count, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self, what: str) -> str | None:
        """Take the lease and keep it; return the session that wrote before this one, None where none did.

        Raises ValueError, naming it, while another one writes.
        """
        tag, found = self._read()
        if found.get("open") and found.get("token") != self._token:
            tag, found = self._watch(tag, found, what)
        if not self._write(True, tag):
            time.sleep(SETTLE_S)
        now = self._remote.read_object(LEASE)
        if now.get("session") != self.session:
            raise ValueError(_taken(self._remote.url, now, what))
        self._taken = True
        self._thread.start()
        before: str | None = found.get("session")
        return before

    def release(self) -> None:
        """Give it back, if the server answers; else it is as if its owner had died."""
        if not self._taken:
            return
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._write_again(False)

    def holds(self) -> bool:
        """Ask the server whether the lease is still this one's."""
        return self._is_own(self._remote.read_object(LEASE))

    def _is_own(self, found: dict[str, Any]) -> bool:
        if found and found.get("session") != self.session and not self.lost:
            self.lost = True
            self._say(f"{_who(found)} has taken {self._remote.url} over: nothing more is sent there")
        return not self.lost

    def _read(self) -> tuple[str | None, dict[str, Any]]:
        """Return the lease and its tag; the tag is read first, so that no later lease is taken for the one it is of."""
        tag = self._remote.tag(LEASE)
        return tag, self._remote.read_object(LEASE)

    def _watch(self, tag: str | None, found: dict[str, Any], what: str) -> tuple[str | None, dict[str, Any]]:
        """Wait until the lease of another is given back or has been abandoned. Raises ValueError if it is renewed."""
        url = self._remote.url
        self._say(f"{url} is in use by {_who(found)}; is it still? Waiting up to {WATCH_S:.0f} s for a sign of life")
        until = time.monotonic() + WATCH_S
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH_S / 4))
            now_tag, now = self._read()
            if not now.get("open"):
                return now_tag, now
            if now != found:
                raise ValueError(_taken(url, now, what))
        self._say(f"{_who(found)} has not been heard of for {WATCH_S:.0f} s: {url} is taken over")
        return tag, found

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with contextlib.suppress(Exception):  # a server that does not answer gives it to nobody else either
                if not self._write_again(True):
                    return

    def _write_again(self, is_open: bool) -> bool:
        """Write the lease over this one's own; return whether it was."""
        tag, found = self._read()
        if not self._is_own(found):
            return False
        self._write(is_open, tag)
        return True

    def _write(self, is_open: bool, tag: str | None) -> bool:
        """Write the lease if its tag is `tag` still; return whether that is sure to be so."""
        self._count += 1
        values = {
            "session": self.session, "open": is_open, "renewed": self._count, "token": self._token,
            "who": f"{_user()} on {socket.gethostname()}, process {os.getpid()}", "unix_time": round(time.time(), 1),
        }  # fmt: skip
        return self._remote.write_if(LEASE, json.dumps(values).encode(), tag)


def _taken(url: str, found: dict[str, Any], what: str) -> str:
    return f"another {what} is writing to {url}: {_who(found)}; wait for it to end"


def _who(found: dict[str, Any]) -> str:
    return str(found.get("who", "someone"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
