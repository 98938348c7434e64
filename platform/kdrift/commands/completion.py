"""`kdrift completion`: the script with which a shell completes verbs and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print a script that completes kdrift's verbs and options in a shell.

    bash: kdrift completion bash > ~/.local/share/bash-completion/completions/kdrift.
    zsh: kdrift completion zsh > DIR/_kdrift, with DIR in fpath.
    fish: kdrift completion fish > ~/.config/fish/completions/kdrift.fish.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL")] = field(kw_only=False)
    """Shell that the script is for."""


def run(options: Options) -> int:
    """Print the script."""
    from kdrift.cli import VERBS, build_app

    print(build_app(list(VERBS)).generate_completion(prog_name="kdrift", shell=options.shell))
    return 0
