"""The `kdrift` command: one verb a job, each in its own module of `kdrift.commands`, imported when it is called."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from kdrift import __version__

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError


class Verb(NamedTuple):
    """What the overview of all verbs says of one."""

    summary: str
    group: str
    is_job: bool = False
    """Whether it can run as a Ray job."""


VERBS = {
    "phantom": Verb("write a phantom volume in the fastMRI layout", "Data"),
    "fetch-data": Verb("fetch public MR data, with checksum, licence and citation", "Data"),
    "simulate": Verb("make multi-coil k-space from magnitude volumes", "Data"),
    "convert": Verb("convert k-space and image files to a zarr store, on Ray", "Data", True),
    "train": Verb("train a score prior, on Ray Train", "Priors", True),
    "plan": Verb("say what a training takes on a cluster: memory, hours, money", "Priors"),
    "import-checkpoint": Verb("save a published checkpoint as a prior", "Priors"),
    "register": Verb("put a prior into an MLflow registry", "Priors"),
    "promote": Verb("let a registered prior take the place of the champion, by evaluations of both", "Priors"),
    "track": Verb("tell MLflow what it did not hear while it was away", "Priors"),
    "send": Verb("send what a run could not send to the URL of its output", "Reconstruction"),
    "reconstruct": Verb("reconstruct k-space: posterior mean and uncertainty", "Reconstruction", True),
    "tune": Verb("search a method's settings, on Ray Tune", "Reconstruction", True),
    "evaluate": Verb("compare methods and masks over a store, on Ray", "Reconstruction", True),
    "pathology": Verb("compare what a detector finds on reconstructions and on full images", "Reconstruction"),
    "calibrate": Verb("measure on scans with references what deviations are worth, on Ray", "Reconstruction", True),
    "serve": Verb("serve reconstructions over HTTP on this machine, on Ray Serve", "Reconstruction"),
    "info": Verb("describe a method, store, file, checkpoint, prior or result", "What there is"),
    "list": Verb("list methods, presets, priors, masks or configurations", "What there is"),
    "presets": Verb("show the presets of methods and choose those that are used by default", "What there is"),
    "config": Verb("show the configurations that come with kdrift, and copy one to edit", "What there is"),
    "completion": Verb("print a script that completes kdrift's verbs and options in a shell", "What there is"),
}


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A command that was understood."""

    verb: str
    module: ModuleType
    options: Any
    """What the verb's `run` takes."""
    submit: str | None = None
    """Dashboard of the cluster to run it on."""
    job_name: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status (0 done, 1 an error named on standard error, 2 wrong usage)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers beside anything else
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text of this terminal
    from kdrift.commands.options import Misuse

    try:
        parsed, status = parse(arguments), 0
        if parsed is not None and parsed.submit:
            submit = importlib.import_module("kdrift.runs.submit").submit
            status = submit(parsed.verb, parsed.options, parsed.submit, parsed.job_name, arguments)
        elif parsed is not None:
            status = int(parsed.module.run(parsed.options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"kdrift: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, Misuse) else 1
    except KeyboardInterrupt:
        print("kdrift: interrupted", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str]) -> Parsed | None:
    """Return the verb and its options; None where help or the version was asked for, and printed.

    Raises `Misuse` for an unknown verb or option (the nearest known one is named), and for a value that an option
    cannot take.
    """
    from cyclopts import CycloptsError

    from kdrift.commands.options import Misuse

    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb is None and not {"--help", "-h", "--version"} & set(arguments):
        raise Misuse("no verb is given; kdrift --help lists them")
    if verb is not None and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "kdrift --help lists them"
        raise Misuse(f"no verb {verb!r}; {hint}")
    app = build_app([verb] if verb else [])
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise Misuse(f"{_sentence(error, arguments)} (kdrift {verb} --help shows all options)") from None
    options = getattr(command, "options", None)
    if verb is None or options is None:  # --help or --version, or a verb of several without one of them
        try:
            command(*bound.args, **bound.kwargs)
        except SystemExit:  # what rich makes of a pipe that was closed
            raise BrokenPipeError from None
        return None
    given = dict(bound.arguments)
    job = {name: given.pop(name, None) for name in ("submit", "job_name")} if VERBS[verb].is_job else {}
    return Parsed(verb, module_of(verb), options(**given), **job)


def build_app(verbs: Sequence[str]) -> App:
    """Return the command line with the options of `verbs`, and the summaries of all."""
    from cyclopts import App, Group, Parameter

    groups = {name: Group.create_ordered(name) for name in dict.fromkeys(verb.group for verb in VERBS.values())}
    app = App(
        "kdrift",
        help="Score priors for MR images and posterior reconstruction of k-space.",
        version=f"kdrift {__version__}",
        help_format="plaintext",
        default_parameter=Parameter(negative=(), allow_repeating=True),
        group_parameters=Group("Options", sort_key=0),
    )
    for place, (name, verb) in enumerate(VERBS.items()):
        told = App(name, help=f"{verb.summary[0].upper()}{verb.summary[1:]}.", group=groups[verb.group], sort_key=place)
        if name in verbs:
            module = module_of(name)
            if hasattr(module, "VERBS"):
                for word, options in module.VERBS.items():
                    told.command(_command(options, False), name=word, help=options.__doc__)
            else:
                told.default(_command(module.Options, verb.is_job))
                told.help = module.Options.__doc__ or ""
        app.command(told)
    return app


def module_of(verb: str) -> ModuleType:
    """Import the module of a verb: it has `Options` and `run(options)`; or `VERBS`, with the options of each."""
    return importlib.import_module(f"kdrift.commands.{verb.replace('-', '_')}")


def _command(options: type, is_job: bool) -> Callable[..., None]:
    from kdrift.commands.common import JobOptions
    from kdrift.commands.options import signature_of

    command = signature_of(options, JobOptions) if is_job else signature_of(options)
    command.options = options  # type: ignore[attr-defined]
    return command


def _sentence(error: CycloptsError, arguments: Sequence[str]) -> str:
    """Return what a mistake is in one line."""
    from cyclopts import MissingArgumentError, UnusedCliTokensError

    argument = getattr(error, "argument", None)
    if isinstance(error, MissingArgumentError) and argument is not None:
        return f"{argument.name} needs a value" if argument.name in arguments else f"{argument.name} is missing"
    if isinstance(error, UnusedCliTokensError):
        return f"there is no place for {' '.join(error.unused_tokens or [])!r}"
    text = " ".join(str(error).split()).removesuffix(".")
    return text[0].lower() + text[1:]


if __name__ == "__main__":
    sys.exit(main())
