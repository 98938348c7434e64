"""`kdrift send`: send what a run could not send to the URL that its output belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """Send what this machine keeps of a run for the URL of its output, which did not answer while the run went on."""

    url: Annotated[str, Parameter(name="URL")] = field(kw_only=False)
    """What was the run's --out, such as s3://bucket/x."""


def run(options: Options) -> int:
    """Send what is left; nothing is computed."""
    from kdrift.commands.common import echo
    from kdrift.runs.home import at_home, working_folder
    from kdrift.runs.remote import is_url

    folder = working_folder(options.url) / "files"
    if not is_url(options.url) or not folder.is_dir():
        raise ValueError(f"nothing is kept here for {options.url}; expected the URL of a run of this machine and user")
    tracked = (folder / "run.json").is_file()  # its MLflow database is read from here
    with at_home(options.url, what="sending", echo=echo, wanted=lambda remote: (), keep=tracked):
        pass
    print(f"{options.url} has all that was written")
    return 0
