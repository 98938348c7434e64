"""`kdrift track`: tell MLflow what it did not hear while it was away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """Send what a run's folder keeps for MLflow, which did not answer while the run went on."""

    folder: Annotated[str, Parameter(name="FOLDER|URL")] = field(kw_only=False)
    """Output of a training, search or evaluation."""


def run(options: Options) -> int:
    """Send what is left and say how much stays."""
    from kdrift.commands.common import echo
    from kdrift.runs.files import read_json
    from kdrift.runs.home import at_home
    from kdrift.runs.outbox import send_left
    from kdrift.runs.run_folder import OUTBOX, RUN

    with at_home(options.folder, what="sending", echo=echo, keep=True) as home:
        found = read_json(home.folder / RUN)
        if not found:
            raise ValueError(f"{options.folder} holds no run; expected the output of a training, search or evaluation")
        left = send_left(home.folder / OUTBOX, found["tracking_uri"], found["run_id"], echo=echo)
    print(f"{left} entries are kept for later" if left else f"MLflow at {found['tracking_uri']} knows everything")
    return 1 if left else 0
