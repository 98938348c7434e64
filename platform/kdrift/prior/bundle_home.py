"""Where a bundle is written: into a folder, or at an fsspec URL, where it is whole once its `SHA256SUMS` is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from kdrift.prior.bundle import SUMS, WEIGHTS
from kdrift.runs.files import put_file, refuse_address
from kdrift.runs.home import at_home
from kdrift.runs.mirror import is_sent
from kdrift.runs.remote import Remote, is_url, naming


@contextlib.contextmanager
def bundle_home(out: str | os.PathLike[str], *, what: str, echo: Callable[[str], None]) -> Iterator[Path]:
    """Yield the folder of a bundle that belongs at `out`, a path or a URL; to a URL it is sent as the block ends.

    The folder has the last name of the URL, and holds the bundle that is there, if one is. What the block leaves in it
    takes its place: `SHA256SUMS` goes first and comes last.

    Parameters
    ----------
    what
        The word for what is done in errors.
    echo
        Told what happens at a URL, in lines.

    Raises
    ------
    ValueError
        If something else than a bundle is at the URL, nothing can be written to it, or another run writes to it.
    OSError
        If the block came to its end, and something could not be sent.
    """
    if not is_url(out):
        refuse_address(out, f"bundle of the {what}:")
        yield Path(out).expanduser().resolve()
        return
    _check_place(os.fspath(out))
    with (
        at_home(out, what=what, echo=echo) as home,
        tempfile.TemporaryDirectory(dir=home.folder.parent) as temporary,
    ):
        assert home.url is not None
        folder = Path(temporary) / home.url.rpartition("/")[2]
        if (home.folder / SUMS).is_file():
            shutil.copytree(home.folder, folder)
        with naming(folder, home.url):
            yield folder
        if _sums(folder) != _sums(home.folder):
            _replace(home.folder, folder)


def _check_place(url: str) -> None:
    """Raise ValueError where something else than a bundle is at a URL."""
    try:
        there = [name for name in Remote(url).names() if is_sent(name)]
    except Exception:  # each protocol has errors of its own; `at_home` names what cannot be read
        return
    if there and WEIGHTS not in there:
        raise ValueError(f"{url} has objects, such as {there[0]}, and is no prior: name another place")


def _sums(folder: Path) -> bytes:
    return (folder / SUMS).read_bytes() if (folder / SUMS).is_file() else b""


def _replace(old: Path, new: Path) -> None:
    """Move the files of a bundle to where another one was, so that neither is there in part."""
    (old / SUMS).unlink(missing_ok=True)
    names = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()}
    for path in sorted(old.rglob("*")):
        if path.is_file() and str(path.relative_to(old)) not in names:
            path.unlink()
    for name in sorted(names, key=lambda name: (name == SUMS, name)):
        put_file(new / name, old / name)
