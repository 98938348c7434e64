"""The command line as a whole: help of every verb, misuse, options from dataclasses, completion, start-up."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pytest
from cyclopts import Group

from kdrift.cli import VERBS, main, module_of, parse
from kdrift.commands.options import Misuse, joined, options_of
from kdrift.mri.masks import KINDS
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "ray", "mlflow", "zarr", "pydantic", "numpy", "h5py", "matplotlib"}


def classes(verb: str) -> dict[str, type]:
    """The dataclasses of a verb's options by what is typed before them."""
    module = module_of(verb)
    return {f"{verb} {word}": cls for word, cls in getattr(module, "VERBS", {}).items()} or {verb: module.Options}


EVERY = {typed: cls for verb in VERBS for typed, cls in classes(verb).items()}


@pytest.mark.parametrize("typed", EVERY)
def test_help_has_every_option_and_says_what_it_is(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: kdrift {typed}")
    hints = get_type_hints(EVERY[typed], include_extras=True)
    for each in dataclasses.fields(EVERY[typed]):
        inner = getattr(get_args(hints[each.name])[0] if get_args(hints[each.name]) else None, "__annotations__", None)
        for name in inner or [each.name]:
            metadata = getattr((inner or hints)[name], "__metadata__", ())
            named = [part.name[0] for part in metadata if getattr(part, "name", None) and part.name[0] != "*"]
            option = named[0] if named else f"--{name.replace('_', '-')}"
            lines = [line for line in shown.splitlines() if option in line.split()]
            assert lines, f"{typed} --help does not show {option}"
            assert len(lines[0].strip("│* ").split()) > 2, f"{typed} --help says nothing of {option}"
    assert EVERY[typed].__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_select_can_be_given_several_times() -> None:
    given = ["--select", "contrast=1,repetition=0", "--select", "group=dataset_2"]
    parsed = parse(["reconstruct", "scan.h5", "--out", "out", *given])
    assert parsed is not None
    assert joined(parsed.options.data) == {"select": "contrast=1,repetition=0,group=dataset_2"}
    parsed = parse(["convert", "scan.h5", "--store", "s.zarr", *given])
    assert parsed is not None
    assert parsed.options.select == ("contrast=1,repetition=0", "group=dataset_2")


def test_the_overview_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {verb} " in shown for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kdrift 0.")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "no verb is given; kdrift --help lists them"),
        ("trian", "no verb 'trian'; did you mean 'train'?"),
        ("phantom", "--out is missing (kdrift phantom --help"),
        ("phantom --out", "--out needs a value"),
        ("phantom --out a.h5 --slice 3", "unknown option: --slice. Did you mean --slices? (kdrift phantom --help"),
        ("phantom --out a.h5 --slices x", 'invalid value for --slices: unable to convert "x" into int'),
        ("phantom --out a.h5 --contrast T3", 'invalid value "T3" for --contrast. Choose from: "T1"'),
        ("phantom a.h5 --out b.h5", "there is no place for 'a.h5'"),
        ("train --out x", "--config is missing"),
        ("tune --config annealed --submt h:1", "Did you mean --submit?"),
        ("presets us annealed", 'Did you mean "use"?'),
        ("list mask", 'Did you mean "masks"?'),
        ("simulate x.nii", "give --out or --store, one of the two"),
        ("simulate x.nii --out a --store b", "give --out or --store, one of the two"),
        ("convert x.h5", "give SRC and --store X.zarr, or --config FILE"),
        ("reconstruct", "give INPUT and --out DIR, or --config FILE"),
        ("reconstruct a.h5 --out o --acceleration 4", "--acceleration without --mask undersamples nothing: name"),
        ("reconstruct a.h5 --out o --acs-lines 8", "--acs-lines without --mask undersamples nothing: name the kind"),
        ("reconstruct a.h5 --out o --mask-seed 0", "--mask-seed without --mask"),
        ("reconstruct a.h5 --out o --mask-released", "--mask-released without --mask"),
        ("reconstruct a.h5 --out o --mask random --acs-lines 8 --acs-fraction 0.1", "or --acs-lines, not both"),
        ("reconstruct a.h5 --out o --mask equispacd", "no kind of mask, did you mean 'equispaced'?"),
        ("reconstruct a.h5 --out o --mask m.npy --acceleration 2", "a file, which is not drawn"),
        ("reconstruct a.h5 --out o --precision half", 'Choose from: "auto", "float32"'),
        ("reconstruct a.h5 --config x.yaml --out o", "--config says all of it: leave INPUT out"),
        ("reconstruct --config x.yaml --mask random", "--config says all of it: leave --mask out"),
        ("reconstruct --config x.yaml --samples 8", "--config says all of it: leave --samples out"),
        ("config show phantom", "3 verbs have a configuration 'phantom': say convert/phantom, evaluate/phantom"),
    ],
)
def test_misuse_is_status_2_and_one_sentence(typed: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kdrift: error: ")
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_reconstruct_has_an_option_for_every_field() -> None:
    """Of Plan and MaskRequest, whatever is added to them."""
    hints = get_type_hints(module_of("reconstruct").Options, include_extras=True)
    plan, mask = (get_args(hints[name])[0].__annotations__ for name in ("plan", "mask"))
    assert set(plan) == {each.name for each in dataclasses.fields(Plan)} - {"settings"}
    assert set(mask) == {each.name for each in dataclasses.fields(MaskRequest)} - {"file"}  # --mask takes kind or file
    parsed = parse(
        ["reconstruct", "x.h5", "--out", "o", "--samples", "3", "--samples", "4", "--save-samples", "--seed=2"]
    )
    assert parsed is not None
    assert parsed.options.plan == {"num_samples": 4, "keep_samples": True, "seed": 2}  # all else is Plan's
    assert parsed.options.mask == {}
    typed = "reconstruct x --out o --mask poisson --acceleration 2 --acs-lines 4 --mask-seed 3"
    every = parse(typed.split())
    assert every is not None
    assert every.options.mask == {"kind": "poisson", "acceleration": 2.0, "acs_lines": 4, "seed": 3}
    for kind in KINDS:
        assert parse(["reconstruct", "x", "--mask", kind]) is not None


@dataclass(frozen=True)
class Thing:
    num_parts: int = 3
    """Parts of it."""
    how: Literal["a", "b"] | None = None
    """Which way."""
    held: Plan | str = ""
    """One of two types."""
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Not for the command line."""


def test_options_follow_the_dataclass() -> None:
    made = get_args(Annotated[options_of(Thing, Group("G"), omit=("more",)), 0])[0]
    annotations = made.__annotations__
    assert [get_args(hint)[0] for hint in annotations.values()] == [int, Literal["a", "b"], str]
    told = [hint.__metadata__[0] for hint in annotations.values()]
    assert [(each.name, each.help) for each in told] == [
        (("--parts",), "Parts of it. [default: 3]"),
        (("--how",), "Which way."),
        (("--held",), "One of two types."),
    ]
    with pytest.raises(TypeError, match=r"Thing\.more is of type dict"):
        options_of(Thing, Group("G"))


def test_errors_and_ends_have_their_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", "--out", str(tmp_path / "a.h5"), "--snr", "loud"]) == 1
    assert capsys.readouterr().err == "kdrift: error: --snr is 'loud', expected a number or none\n"
    (tmp_path / "file").write_text("")
    assert main(["phantom", "--out", str(tmp_path / "file" / "a.h5"), "--size", "32"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1

    def interrupted(options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module_of("list"), "run", interrupted)
    assert main(["list", "masks"]) == 130
    assert capsys.readouterr().err == "kdrift: interrupted\n"


@pytest.mark.parametrize("typed", ["--help", "list masks", "list masks --json", "completion bash"])
def test_a_closed_pipe_is_no_traceback(typed: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kdrift", *typed.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(120) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if VERBS[verb].is_job])
def test_jobs_are_the_verbs_on_one_screen(verb: str) -> None:
    script = REPOSITORY / "jobs" / f"{verb}.py"
    assert len(script.read_text().splitlines()) < 25
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Usage: kdrift {verb} ")
    assert "--submit ADDRESS" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_and_options(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    assert "virtual-coils" in script
    assert "gaussian2d" in script
    assert "use" in script
    if shell == "bash":
        (tmp_path / "kdrift").write_text(script)
        subprocess.run(["bash", "-n", str(tmp_path / "kdrift")], check=True)


@pytest.mark.parametrize("typed", ["--help", "--version", "train --help", "phantom --slices", "trian"])
def test_starting_up_imports_nothing_heavy(typed: str) -> None:
    code = "import sys; from kdrift.cli import main; main(sys.argv[1:]); print('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *typed.split()], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("loaded: ")[2].split()
    assert "kdrift.cli" in loaded
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


def test_help_is_there_at_once() -> None:
    """0.3 s on an idle machine, the best of three; what Python itself takes is not counted."""

    def seconds(*words: str) -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True, env={**os.environ})
        return time.monotonic() - began

    taken = min(seconds("-m", "kdrift", "--help") - seconds("-c", "pass") for _ in range(3))
    assert taken < 1.0


def test_misuse_is_told_from_python_too() -> None:
    with pytest.raises(Misuse, match="no verb 'x'"):
        parse(["x"])
