"""What README and docs/ say is true: commands parse, links and files exist, tables are those of the code.

`python tests/project/test_docs.py` writes what is generated of the methods' pages: cards that are missing, tables,
navigation.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import method_pages
from kdrift.cli import Parsed, main
from kdrift.cli import parse as parse_command
from kdrift.commands.options import Misuse
from kdrift.data.convert import ConvertConfig
from kdrift.evaluation.batch import BatchConfig
from kdrift.evaluation.calibrate import CalibrateConfig
from kdrift.evaluation.evaluate_config import EvaluateConfig, load_evaluation
from kdrift.methods import METHODS
from kdrift.mri.masks import KINDS
from kdrift.runs.config import load_config, parse, parse_override, to_dict
from kdrift.runs.config_names import RECIPES, find_config
from kdrift.training.cluster_plan import ClusterSpec
from kdrift.training.train_config import TrainConfig
from kdrift.tuning.load import load_search

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
IDS = [page.name for page in PAGES]
CONFIGS: dict[str, Callable[[Path, Sequence[str]], Any]] = {
    "convert": partial(load_config, ConvertConfig),
    "train": partial(load_config, TrainConfig),
    "tune": load_search,
    "reconstruct": partial(load_config, BatchConfig),
    "evaluate": partial(load_config, EvaluateConfig),
    "calibrate": partial(load_config, CalibrateConfig),
}


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
    if verb == "evaluate" and options.recipe:
        if options.recipe not in made:
            load_evaluation(find_config(RECIPES, options.recipe), [*options.set, f"size={options.size}"])
        return
    if verb in CONFIGS and options.config:
        if options.config not in made:
            config = CONFIGS[verb](find_config(verb, options.config), options.set)
            made |= {config.name, f"{options.out}/train.yaml"} if verb == "tune" else set()
    elif verb == "plan":
        load_config(TrainConfig, find_config("train", options.config), options.set)
        load_config(ClusterSpec, find_config("plan", options.cluster), options.cluster_set)
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


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_card_and_its_row(name: str) -> None:
    advice = "run python tests/project/test_docs.py"
    page = method_pages.CARDS / f"{name}.md"
    assert page.is_file(), f"no card of {name}: {advice}"
    assert page.read_text().startswith(f"# {name}\n")
    assert method_pages.GENERATED.findall(page.read_text()) == [(name, method_pages.facts(name))], advice
    assert f"\n| [`{name}`](methods/{name}.md) | " in method_pages.TABLE.read_text(), advice


def test_table_and_navigation_of_the_methods_are_those_of_the_code() -> None:
    advice = "run python tests/project/test_docs.py"
    found = method_pages.GENERATED.findall(method_pages.TABLE.read_text())
    assert found == [("methods", method_pages.table())], advice
    navigation = method_pages.NAVIGATION.read_text()
    assert method_pages.with_navigation(navigation) == navigation, advice
    pages = {page.stem for page in method_pages.CARDS.glob("*.md")}
    assert pages == {*METHODS, *method_pages.NOT_METHODS}, "a card of no method"


def test_a_new_method_gets_its_card_row_and_cost_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newcomer who added `pigdm` sees: the command writes the card, the row and the entry of the navigation."""
    files = {"TABLE": "samplers.md", "NAVIGATION": "mkdocs.yml", "CARDS": "methods"}
    for constant, name in files.items():
        monkeypatch.setattr(method_pages, constant, tmp_path / name)
    shutil.copytree(REPOSITORY / "docs" / "methods", tmp_path / "methods")
    (tmp_path / "methods" / "pigdm.md").unlink()
    (tmp_path / "samplers.md").write_text("<!-- generated: methods -->\n<!-- end -->\n")
    (tmp_path / "mkdocs.yml").write_text("nav:\n      - methods/dps.md\n      - priors.md\n")
    method_pages.write_pages()
    card = (tmp_path / "methods" / "pigdm.md").read_text()
    assert card.startswith("# pigdm\n\nPiGDM: guided by pseudoinverse and network.\n\nSource: Pseudoinverse-guided")
    assert "| `prior_sigma` | `0.3` | tau of r^2" in card
    assert "| `paper` (used by default) | 100 | none |" in card
    assert re.search(r"\| \[`pigdm`\]\(methods/pigdm.md\) \|.* 100 \|\n", (tmp_path / "samplers.md").read_text())
    assert "- methods/pigdm.md\n" in (tmp_path / "mkdocs.yml").read_text()


if __name__ == "__main__":
    method_pages.write_pages()
