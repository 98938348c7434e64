"""What README and docs/ say is true: commands parse, links and files exist, tables are those of the code.

`python tests/project/test_docs.py` writes the generated tables of the samplers anew.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdrift.cli import Parsed, main
from kdrift.cli import parse as parse_command
from kdrift.commands.options import Misuse
from kdrift.data.convert import ConvertConfig
from kdrift.evaluation.batch import BatchConfig
from kdrift.evaluation.evaluate import EvaluateConfig
from kdrift.methods import METHODS
from kdrift.mri.masks import KINDS
from kdrift.runs.config import load_config, parse, parse_override, to_dict
from kdrift.runs.config_names import find_config
from kdrift.training.train_config import TrainConfig
from kdrift.tuning.tune_config import TuneConfig

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLERS = REPOSITORY / "docs" / "samplers.md"
CARDS = [SAMPLERS, *sorted((REPOSITORY / "docs" / "methods").glob("*.md"))]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
IDS = [page.name for page in PAGES]
CONFIGS: dict[str, type] = {
    "convert": ConvertConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "reconstruct": BatchConfig,
    "evaluate": EvaluateConfig,
}
GENERATED = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of the fenced blocks of a page."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the command lines of a page."""
    lines = [line for language, text in blocks(page) if not language for line in text.splitlines()]
    return [line for line in lines if re.match(r"(kdrift|make|python|ray|mlflow|source) ", line)]


def kdrift_commands(page: Path) -> list[list[str]]:
    """Return the arguments of the kdrift commands of a page; a synopsis in brackets is taken with all of them."""
    found = []
    for line in commands(page):
        if line.startswith("kdrift "):
            plain = re.sub(r"\[(?=-|\w+\.zarr/)|(?<=[\w)])\](?=\s|$)", "", line)
            words = shlex.split(plain.partition(" > ")[0], comments=True)[1:]
            found.append(["1" if re.fullmatch("[A-Z]", word) else word for word in words])
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_kdrift_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    made: set[str] = set()
    for words in kdrift_commands(page):
        try:
            parsed = parse_command(words)
        except Misuse as error:
            pytest.fail(f"{page.name}: kdrift {' '.join(words)}: {error}")
        if parsed is not None:
            check_meaning(parsed, made)


def check_meaning(parsed: Parsed, made: set[str]) -> None:
    """Check what a command names: configurations, methods, presets and settings, or what a command before it made."""
    options, verb = parsed.options, parsed.verb
    if verb in CONFIGS and options.config:
        if options.config not in made:
            config = load_config(CONFIGS[verb], find_config(verb, options.config), options.set)
            made |= {config.name} if verb == "tune" else set()
    elif verb == "config" and hasattr(options, "name"):
        assert main(["config", "show", options.name]) == 0
        made |= {str(getattr(options, "out", ""))}
    elif verb == "reconstruct" and options.plan.get("preset") in made:
        pass
    elif verb == "reconstruct" and options.plan.get("method", "annealed") != "NAME":
        settings = dict(parse_override(text) for text in options.set)
        check_settings(options.plan.get("method", "annealed"), options.plan.get("preset"), settings)
    elif verb == "presets":
        assert options.method in METHODS
        assert getattr(options, "name", None) in {None, *METHODS[options.method].presets, *made}


def check_settings(name: str, preset: str | None, settings: dict[str, Any]) -> None:
    _, chosen = METHODS[name].preset(None if str(preset).endswith(".yaml") else preset)
    parse(METHODS[name].options, {**to_dict(chosen), **settings})


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_other_commands_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    text = page.read_text()
    for target in re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", text, re.MULTILINE):
        assert (target[0] or target[1]) in targets
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert (REPOSITORY / (module.replace(".", "/") + ".py")).is_file(), module
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (REPOSITORY / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_and_files_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target
    for name in re.findall(r"\b((?:configs|benchmarks|platform|jobs)/[\w/.-]+)", page.read_text()):
        assert (REPOSITORY / name.rstrip(".")).exists() or "/shipped/NAME" in name, f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_examples_import(page: Path) -> None:
    for language, text in blocks(page):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kdrift"):
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name), f"{page.name}: {node.module} has no {name.name}"


def test_readme_leaves_room_for_results() -> None:
    assert "<!-- results: filled from benchmarks/real_slices.py -->" in (REPOSITORY / "README.md").read_text()


def test_mask_table_has_every_kind() -> None:
    text = (REPOSITORY / "docs" / "data.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (?:columns|points)", text, re.MULTILINE) == list(KINDS)


def test_sampler_cards_are_those_of_the_code() -> None:
    text = SAMPLERS.read_text()
    headings = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    assert [name for name in METHODS if name in headings] == [name for name in headings if name in METHODS]
    found = [pair for page in CARDS for pair in GENERATED.findall(page.read_text())]
    assert dict(found) == {name: card(name) for name in METHODS}, "run python tests/project/test_docs.py"
    assert len(found) == len(METHODS)
    for name, method in METHODS.items():
        assert name in headings or f"](methods/{name}.md)" in text, f"no card of {name}"
        _, options = method.preset(None)
        nfe = options.evaluations or "-"
        assert re.search(rf"^\| \[?`{name}`.*\| {nfe} \|$", text, re.MULTILINE), f"default nfe of {name} is {nfe}"


def card(name: str) -> str:
    """Return the settings and presets of a method in Markdown; those of an earlier method are not repeated."""
    method = METHODS[name]
    fields = dataclasses.fields(method.options)
    earlier = [other for other in list(METHODS)[: list(METHODS).index(name)] if shares_settings(other, name)]
    known = {field.name for field in dataclasses.fields(METHODS[earlier[0]].options)} if earlier else set()
    own = [field for field in fields if field.name not in known]
    lines = [""]
    if earlier:
        lines += [f"Settings: those of `{earlier[0]}`{', and' if own else '.'}", ""]
    if own:
        lines += ["| setting | default | meaning |", "|---|---|---|"]
    for field in own:
        lines.append(f"| `{field.name}` | {shown(field.default)} | {field_docs(method.options)[field.name]} |")
    lines += ["", "| preset | settings that differ from the defaults |", "|---|---|"]
    for preset_name, preset in method.presets.items():
        differing = [
            f"`{field.name}` {shown(getattr(preset, field.name))}"
            for field in fields
            if getattr(preset, field.name) != field.default
        ]
        label = f"`{preset_name}`" + (" (used by default)" if preset_name == method.preset(None)[0] else "")
        lines.append(f"| {label} | {', '.join(differing) or 'none'} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, "", ""]))


def shares_settings(other: str, name: str) -> bool:
    """Whether a method has all settings of another, of the same meaning."""
    return issubclass(METHODS[name].options, METHODS[other].options)


def shown(value: Any) -> str:
    """Return a setting as --set takes it."""
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings of a dataclass's fields, inherited ones too."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(node.target, ast.Name)
                docs[node.target.id] = " ".join(ast.literal_eval(after.value).split()).replace("|", "\\|")
    return docs


def write_cards() -> None:
    """Write the generated tables of the samplers' pages."""
    for page in CARDS:
        new = GENERATED.sub(
            lambda found: f"<!-- generated: {found[1]} -->\n{card(found[1])}<!-- end -->",
            page.read_text(),
        )
        page.write_text(new)


if __name__ == "__main__":
    write_cards()
