"""Where a run's output belongs: a folder, or an fsspec URL (`s3://bucket/x`) that a working folder is sent to.

The run writes into the working folder as into any other, and on one node alone; what it finds there it finds in a
folder. So everything that a folder promises (whole files, resumption, MLflow's outbox) holds at a URL too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdrift.runs.files import (
    check_folder,
    only_user,
    put_folder,
    read_json,
    refuse_address,
    user_cache,
    whole_folder,
    write_json,
)
from kdrift.runs.hint import first_line
from kdrift.runs.lease import Lease
from kdrift.runs.mirror import PATIENCE_S, PAUSES_S, Mirror, Stamp, differing, files_in, is_sent
from kdrift.runs.remote import Remote, is_url, naming

HOMES = "homes"
"""Where working folders lie in the user's cache."""
OWN_MARKS = ("config.yaml", "metrics.json")
"""One of these says that what is at a URL is of kdrift, if a lease does not."""
REBASED = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Tables and columns of an MLflow database that name folders."""


@dataclass(frozen=True)
class Home:
    """Where a run works, and where its output belongs."""

    folder: Path
    """Absolute path of the folder to write into."""
    url: str | None = None
    """Where that is sent to; None: it is the output."""

    @property
    def name(self) -> str:
        """The output as it was asked for."""
        return self.url or str(self.folder)

    def shown(self, path: Path | str) -> str:
        """Return a text with the places of the output in it, in place of those of the working folder."""
        return str(path) if self.url is None else str(path).replace(str(self.folder), self.url)

    def telling(self, echo: Callable[[str], None]) -> Callable[[str], None]:
        """Return `echo` for lines that name paths of the working folder."""
        return echo if self.url is None else lambda line: echo(self.shown(line))


def home_of(out: str | os.PathLike[str]) -> Home:
    """Return where a run of this machine at `out` works, without a look at it."""
    if is_url(out):
        url = os.fspath(out).rstrip("/")
        return Home(working_folder(url) / "files", url)
    text = os.fspath(out).removeprefix("file://")
    return Home(Path(text).resolve())


@contextlib.contextmanager
def at_home(
    out: str | os.PathLike[str],
    *,
    what: str,
    echo: Callable[[str], None],
    wanted: Callable[[Remote], Iterable[str]] | None = None,
    keep: bool = False,
) -> Iterator[Home]:
    """Yield where to work for an output at `out`, a path or a URL; of a URL all is sent while the block runs and after.

    At a URL it is tried first whether one can write there. What a run left there is fetched, unless the working folder
    still has it. Afterwards the working folder is removed, if nothing is left to send.

    Parameters
    ----------
    what
        The word for the run in errors.
    echo
        Told what happens at a URL, in lines.
    wanted
        Which objects are fetched; by default all, of a run.
    keep
        Leave the working folder where it is.

    Raises
    ------
    ValueError
        If nothing can be written to the URL, or another run writes to it.
    OSError
        If the block came to its end, and something could not be sent.
    """
    home = home_of(out)
    if home.url is None:
        refuse_address(os.fspath(out).removeprefix("file://"), f"output of the {what}:")
        yield home
        return

    def say(line: str) -> None:
        echo(f"note: {line}")

    folder, url = home.folder, home.url
    remote, base = Remote(url), folder.parent
    check_folder(base)
    base.mkdir(parents=True, exist_ok=True)
    with only_user(base, f"another {what} on this machine is writing to {url}"):
        remote.probe()
        record = base / "record.json"
        noted = {"token": uuid.uuid4().hex, **read_json(record)}
        write_json(record, noted)
        lease = Lease(remote, noted["token"], say)
        try:
            with _in_words(url):
                before = lease.take(what)
                _take_up(remote, folder, record, lease.session, before, wanted, say)
            mirror = Mirror(remote, folder, record, lease.holds, say)
            try:
                with naming(folder, url):
                    yield home
            except BaseException:
                left, why = mirror.close()
                if left:
                    say(_unsent(left, url, folder, why))
                raise
            left, why = mirror.close()
        finally:
            lease.release()
        if left:
            raise OSError(_unsent(left, url, folder, why))
        if not keep:
            put_folder(folder, base / "done", replace=True)  # at once: a folder that is half there would be taken up
            shutil.rmtree(base / "done", ignore_errors=True)


@contextlib.contextmanager
def file_at(out: str | os.PathLike[str], *, what: str) -> Iterator[Path]:
    """Yield where to write one file that belongs at `out`, a path or a URL; to a URL it is sent as the block ends.

    At a URL it is tried first whether one can write there; the object appears whole, or is as it was. The block writes
    the file whole or not at all. `what` is the word for it in errors.

    Raises ValueError if nothing can be written to the URL, OSError if the file could not be sent.
    """
    if not is_url(out):
        text = os.fspath(out).removeprefix("file://")
        refuse_address(text, f"{what}:")
        yield Path(text)
        return
    above, _, name = os.fspath(out).rpartition("/")
    if not name or above.endswith(":/"):
        raise ValueError(f"{what}: {out} names no file, expected a URL such as s3://bucket/x.h5")
    remote = Remote(above)
    remote.probe()
    with tempfile.TemporaryDirectory(prefix="kdrift-") as folder:
        path = Path(folder) / name
        yield path
        until, pauses = time.monotonic() + PATIENCE_S, iter(PAUSES_S)
        while True:
            try:
                remote.send(path, name)
                return
            except Exception as error:  # each protocol has errors of its own
                pause = next(pauses, PAUSES_S[-1])
                if time.monotonic() + pause > until:
                    why = first_line(error)[:200]
                    raise OSError(f"{out} could not be written ({why}); give the same command again") from None
            time.sleep(pause)


@contextlib.contextmanager
def _in_words(url: str) -> Iterator[None]:
    """Turn the errors of a protocol into OSErrors."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:  # each protocol has errors of its own
        raise OSError(f"{url} does not answer: {first_line(error)[:200]}") from None


def _take_up(
    remote: Remote, folder: Path, record: Path, session: str, before: str | None,
    wanted: Callable[[Remote], Iterable[str]] | None, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Make the working folder what the URL holds, unless it is so already, but for what is yet to be sent."""
    values = read_json(record)
    if before is None or before != values.get("session") or not folder.is_dir():
        _set_aside(folder, values.get("sent", {}), remote.url, say)
        values["sent"] = _fetch(remote, folder, before is not None, wanted)
    write_json(record, {**values, "session": session})


def working_folder(url: str) -> Path:
    """Return where the working folder of a URL is kept, with what is noted of it."""
    return (user_cache(HOMES) / _key(url)).resolve()


def _key(url: str) -> str:
    """Return the name of a URL's working folder, the same on every machine."""
    url = url.rstrip("/")
    last = re.sub(r"[^A-Za-z0-9._-]", "_", url.rpartition("/")[2])[:40]
    return f"{last}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def _unsent(left: list[str], url: str, folder: Path, why: str) -> str:
    names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    return (
        f"{len(left)} file(s) could not be sent to {url} ({why}): {names}; they are kept in {folder}, and kdrift send"
        f" {url} sends them, as does the same command when it goes on"
    )


def _set_aside(folder: Path, sent: dict[str, Stamp | None], url: str, say: Callable[[str], None]) -> None:
    """Make way for what is at the URL, which another machine has written or somebody has removed since."""
    if not folder.is_dir():
        return
    if differing(folder, sent):
        aside = folder.with_name(f"left-{time.strftime('%Y%m%d-%H%M%S')}")
        put_folder(folder, aside, replace=True)
        say(f"{url} has changed elsewhere since; what was not sent from here is kept in {aside} and not used")
    else:
        shutil.rmtree(folder)


def _fetch(
    remote: Remote, folder: Path, is_ours: bool, wanted: Callable[[Remote], Iterable[str]] | None
) -> dict[str, Stamp | None]:
    """Copy what a URL holds to a new folder; return what of it is as it is there."""
    names = remote.names()
    chosen = set(wanted(remote)) & names.keys() if wanted is not None else set(names)
    if not (is_ours or any(name in names for name in OWN_MARKS)):
        chosen = set()  # whatever it is, no run goes on with it, and it stays as it is
    with whole_folder(folder) as temporary:
        for name in sorted(name for name in chosen if is_sent(name)):
            remote.fetch(name, temporary / name)
            if (size := (temporary / name).stat().st_size) != names[name]:
                raise OSError(f"{remote.url}/{name} has {names[name]} bytes, {size} came")
    stamps: dict[str, Stamp | None] = dict(files_in(folder))
    return stamps | dict.fromkeys(_rebase(folder, remote.url))


def _rebase(folder: Path, url: str) -> list[str]:
    """Let what names the working folder of another machine name this one; return the files that were changed."""
    elsewhere = re.compile(rf'/(?!/)[^":\n]*/{re.escape(f"kdrift/{HOMES}/{_key(url)}")}/files')
    changed = []

    def here(text: str) -> str:
        return elsewhere.sub(lambda _: str(folder), text)

    for path in (folder / "run.json", *sorted((folder / "mlflow").glob("*.json*"))):
        if path.is_file() and (text := path.read_text(encoding="utf-8")) != (now := here(text)):
            path.write_text(now, encoding="utf-8")
            changed.append(str(path.relative_to(folder)))
    if (database := folder / "mlflow.db").is_file():
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.create_function("here", 1, lambda text: None if text is None else here(str(text)))
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, column in REBASED:
                columns = (
                    {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} if table in tables else ()
                )
                if column in columns:
                    connection.execute(f"UPDATE {table} SET {column} = here({column})")
        changed.append("mlflow.db")
    return changed
