"""Files of jobs: `ID/scan/` as it was read, `ID/slices/` as they are done, `ID/result/`; and of uploads, `ID/parts/`.
In a folder, or at a URL.

Every file appears whole or not at all. What strangers upload, and what is being written, lies in
`incoming/OWNER-...` on the disk of the process, and is deleted when it has been read or put in its place; by the sweep
where that process died.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kdrift.runs.files import put_file, user_cache, whole_file
from kdrift.runs.hint import one_line
from kdrift.runs.remote import Remote, is_url
from kdrift_serve.job_table import FULL, DiskFull, StateLost

_ID = re.compile(r"[0-9a-f]{32}")
INCOMING = "incoming"
COPIES_S = 3600.0
"""How long copies of files at a URL stay on the disk of a process after it was asked for one."""


class JobFiles:
    """Files by job and name. Raises `DiskFull` and `StateLost` where they cannot be written or read.

    Files at a URL are copied to a folder of this process when they are asked for, and once.
    """

    def __init__(self, storage: str) -> None:
        self._remote = Remote(storage) if is_url(storage) else None
        with self._told():
            copies = user_cache("serve") / hashlib.sha256(storage.encode()).hexdigest()[:16]
            self._folder = Path(storage).expanduser().resolve() if self._remote is None else copies
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.incoming = self._folder / INCOMING
            self.incoming.mkdir(mode=0o700, exist_ok=True)

    def check(self) -> None:
        """Raise `StateLost` where nothing can be kept: the folder was moved or unmounted, the URL does not answer."""
        with self._told():
            self._check_here()
            if self._remote is not None:
                with _away():
                    self._remote.read(INCOMING)

    def _check_here(self) -> None:
        """Raise `StateLost` where the folder is not there; one of copies is made again. An empty one in its place, as
        where a disk is not mounted, is another."""
        if self._remote is not None:
            self.incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not self.incoming.is_dir():
            raise StateLost("the storage of the service is not there: was its folder moved, or is it not mounted?")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """`told`, where a folder that is gone may be that of all."""
        try:
            with told():
                yield
        except FileNotFoundError:
            self._check_here()
            raise

    def temporary(self, owner: str) -> Path:
        """Make and return a folder for what is received or written, by a service or of a job that has not ended;
        whoever asked deletes it."""
        with self._told():
            self._check_here()
            return Path(tempfile.mkdtemp(prefix=f"{owner}-", dir=self.incoming))

    @contextlib.contextmanager
    def filling(self, job_id: str, folder: str) -> Iterator[Path]:
        """Yield a folder to fill; after the block its files are those of `ID/folder`, unless the block raised."""
        with self._told():
            made = self.temporary(job_id)
            try:
                yield made
                self.put_all(job_id, folder, made)
            finally:
                shutil.rmtree(made, ignore_errors=True)

    def put_all(self, job_id: str, folder: str, made: Path) -> None:
        """Make the files of `made`, which are given away, those of `ID/folder`."""
        for path in sorted(made.rglob("*")):
            if path.is_file():
                self.put(job_id, f"{folder}/{path.relative_to(made)}", path)

    def put(self, job_id: str, name: str, path: Path) -> None:
        """Make a file, which is given away, the one of this name."""
        target = self._folder / job_id / name
        with self._told():
            self._check_here()
            if self._remote is not None:
                with _away():
                    self._remote.send(path, f"{job_id}/{name}")
            for folder in reversed(target.relative_to(self._folder).parents):
                (self._folder / folder).mkdir(mode=0o700, exist_ok=True)
            put_file(path, target, mode=0o600)

    def get(self, job_id: str, name: str) -> Path | None:
        """Return the local path of a file, None where there is none."""
        if not _ID.fullmatch(job_id):
            return None
        path = self._folder / job_id / name
        with self._told():
            if self._remote is not None:
                self._forget_copies(job_id)
            if self._remote is not None and not path.is_file():
                try:
                    with whole_file(path, mode=0o600) as temporary, _away():
                        self._remote.fetch(f"{job_id}/{name}", temporary)
                except FileNotFoundError:
                    return None
            if path.is_file():
                return path
            self._check_here()
            return None

    def read(self, job_id: str, name: str) -> bytes | None:
        """Return what a file holds now, None where there is none; of a file at a URL no copy is kept."""
        with self._told():
            if self._remote is not None:
                with _away():
                    return self._remote.read(f"{job_id}/{name}")
            try:
                return (self._folder / job_id / name).read_bytes()
            except FileNotFoundError:
                self._check_here()
                return None

    def _forget_copies(self, used: str) -> None:
        """Delete copies of jobs that no process here has asked for lately, and note that one is asked for."""
        mine = self._folder / used
        mine.mkdir(mode=0o700, exist_ok=True)
        os.utime(mine)
        for path in self._folder.iterdir():
            if _ID.fullmatch(path.name) and time.time() - path.stat().st_mtime > COPIES_S:
                shutil.rmtree(path, ignore_errors=True)

    def names(self, job_id: str, folder: str) -> set[str]:
        """Return the names of the files of a folder of a job."""
        with self._told():
            if self._remote is not None:
                with _away():
                    place = Remote(f"{self._remote.url}/{job_id}/{folder}")
                    return {name for name in place.names() if "/" not in name}
            place_here = self._folder / job_id / folder
            self._check_here()
            return {entry.name for entry in os.scandir(place_here)} if place_here.is_dir() else set()

    def remove_half_written(self, job_id: str) -> None:
        """Delete what a process that died was writing of a job."""
        for path in self.incoming.glob(f"{job_id}-*"):
            shutil.rmtree(path, ignore_errors=True)

    def remove(self, job_id: str, folder: str = "") -> None:
        """Delete a folder of a job, or all that it has."""
        assert _ID.fullmatch(job_id)
        shutil.rmtree(self._folder / job_id / folder, ignore_errors=True)
        if self._remote is not None:
            with _away():
                place = Remote("/".join(filter(None, (self._remote.url, job_id, folder))))
                for name in place.names():
                    place.delete(name)

    def jobs(self) -> set[str]:
        """Return the ids of all jobs and uploads that have files."""
        with self._told():
            if self._remote is not None:
                with _away():
                    found = {name.partition("/")[0] for name in self._remote.names()}
            else:
                found = {entry.name for entry in os.scandir(self._folder)}
        return {name for name in found if _ID.fullmatch(name)}


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tell a full disk (`DiskFull`) and storage that is gone (`StateLost`) by a sentence."""
    try:
        yield
    except (DiskFull, StateLost, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull("the disk of the service is full") from None
        raise StateLost(
            f"the storage of the service cannot be used ({error.strerror or type(error).__name__})"
        ) from None


@contextlib.contextmanager
def _away() -> Iterator[None]:
    """Tell by a sentence that storage at a URL does not answer; that an object is not there is none."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # each protocol has errors of its own
        said = f"{type(error).__name__}: {one_line(error)[:160]}"
        raise StateLost(f"the storage of the service cannot be used ({said})") from None
