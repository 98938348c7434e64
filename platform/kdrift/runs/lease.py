"""One writer at a URL at a time: an object that says who, which its owner renews.

Clocks of machines are not compared: whoever finds the lease of another watches whether it is renewed.
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
"""How long a new owner waits to see whether another took it at the same time, seconds."""


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
        found = self._remote.read_object(LEASE)
        if found.get("open") and found.get("token") != self._token:
            found = self._watch(found, what)
        self._write(True)
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
            if self.holds():
                self._write(False)

    def holds(self) -> bool:
        """Ask the server whether the lease is still this one's."""
        found = self._remote.read_object(LEASE)
        if found and found.get("session") != self.session and not self.lost:
            self.lost = True
            self._say(f"{_who(found)} has taken {self._remote.url} over: nothing more is sent there")
        return not self.lost

    def _watch(self, found: dict[str, Any], what: str) -> dict[str, Any]:
        """Wait until the lease of another is given back or has been abandoned. Raises ValueError if it is renewed."""
        url = self._remote.url
        self._say(f"{url} is in use by {_who(found)}; is it still? Waiting up to {WATCH_S:.0f} s for a sign of life")
        until = time.monotonic() + WATCH_S
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH_S / 4))
            now = self._remote.read_object(LEASE)
            if not now.get("open"):
                return now
            if now != found:
                raise ValueError(_taken(url, now, what))
        self._say(f"{_who(found)} has not been heard of for {WATCH_S:.0f} s: {url} is taken over")
        return found

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with contextlib.suppress(Exception):  # a server that does not answer gives it to nobody else either
                if not self.holds():
                    return
                self._write(True)

    def _write(self, is_open: bool) -> None:
        self._count += 1
        values = {
            "session": self.session, "open": is_open, "renewed": self._count, "token": self._token,
            "who": f"{_user()} on {socket.gethostname()}, process {os.getpid()}", "unix_time": round(time.time(), 1),
        }  # fmt: skip
        self._remote.write(LEASE, json.dumps(values).encode())


def _taken(url: str, found: dict[str, Any], what: str) -> str:
    return f"another {what} is writing to {url}: {_who(found)}; wait for it to end"


def _who(found: dict[str, Any]) -> str:
    return str(found.get("who", "someone"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
