"""The recipes of published tables: each loads and resolves in both sizes, and states what the papers print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdrift.evaluation.cells import Entry, cell_tasks, mask_entries, method_entries, resolve_methods
from kdrift.evaluation.evaluate_config import EvaluateConfig, load_evaluation
from kdrift.mri.masks import make_mask
from kdrift.prior.bundle import shipped_priors
from kdrift.runs.config import parse
from kdrift.runs.config_names import RECIPES, config_names, find_config

NAMES = config_names(RECIPES)
BASE: dict[str, Any] = {
    "store": "s", "out": "o", "masks": {"m": {"kind": "gaussian1d"}},
    "methods": {"tv": {"method": "tv"}, "pc": {"method": "pc_ve", "preset": "paper"}},
}  # fmt: skip


def recipe(name: str, *overrides: str) -> EvaluateConfig:
    return load_evaluation(find_config(RECIPES, name), overrides)


def test_every_paper_has_recipes() -> None:
    for paper in ("score_mri_table1", "hfs_table1", "hfs_steps", "ak_table2", "ak_table3", "red_diff_table1"):
        assert paper in NAMES


@pytest.mark.parametrize("size", ["full", "small"])
@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_and_resolves(name: str, size: str) -> None:
    config = recipe(name, f"size={size}")
    plans, priors = resolve_methods(config)
    assert {entry.base for entry in plans} == set(config.methods)
    assert {prior.name for prior in priors} <= set(shipped_priors())
    for method in config.methods.values():
        assert method.preset or method.method in ("tv", "cg_sense", "zero_filled"), "a recipe names its preset"
    shape = (128, 128) if size == "small" else (320, 320)
    for mask in mask_entries(config).values():
        make_mask(str(mask.kind), shape, **mask.draw)
    assert (config.name, config.size) == (name, size)
    if size == "small":
        most = max(plan.options.evaluations for plan in plans.values())
        assert most <= 200, "a small run has few evaluations"


@pytest.mark.parametrize("name", NAMES)
def test_recipe_states_where_its_figures_are_from(name: str) -> None:
    config = recipe(name)
    assert config.title
    assert config.notes
    assert name in find_config(RECIPES, name).read_text().partition("\n")[0]
    places = [(row.store, row.mask, row.method or row.other, row.value, row.where) for row in config.published]
    assert len(set(places)) == len(places), "one figure is stated twice"
    for row in config.published:
        assert row.where.startswith(("Table", "Fig."))
        assert row.psnr
        assert 10 < row.psnr[0] < 45
        for figure in (row.psnr, row.ssim, row.nmse):
            assert figure is None or figure[0] > 0
        if config.sweep and row.method:
            assert row.value in config.sweep.values


def test_published_figures_are_the_papers() -> None:
    """The headline of each paper, as its tables have it."""
    assert _stated("hfs_steps", "hfs", value=100) == (30.91, 1.66)
    assert _stated("hfs_steps", "vp", value=100) == (21.11, 3.42)
    assert _stated("hfs_table1", "hfs", mask="uniform12") == (31.12, 1.62)
    assert _stated("ak_table2", "ak") == (34.90, 2.04)
    assert _stated("red_diff_table1", "red_diff", mask="equispaced4") == (37.1, None)
    assert _stated("score_mri_table2", "hybrid", mask="gaussian4") == (34.25, 1.74)
    assert _stated("score_mri_table1", "proposed", mask="gaussian2d15") == (26.15, 4.44)


def _stated(name: str, method: str, **place: Any) -> Any:
    rows = [
        row
        for row in recipe(name).published
        if row.method == method and all(getattr(row, key) == value for key, value in place.items())
    ]
    assert len(rows) == 1
    return rows[0].psnr


def test_hfs_masks_keep_the_papers_lines() -> None:
    """Of 320 lines 54 and 47: net 5.93 and 6.81."""
    for name, lines in (("uniform10", 54), ("uniform12", 47)):
        mask = recipe("hfs_table1").masks[name]
        assert int(make_mask(str(mask.kind), (320, 320), **mask.draw).mask[0].sum()) == lines
    center = recipe("ak_super_resolution").masks["center"]
    assert int(make_mask(str(center.kind), (320, 320), **center.draw).mask.sum()) == 128 * 128


def test_the_example_of_the_page_is_an_evaluation(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example)
    config = load_evaluation(tmp_path / "mine.yaml", ["size=small"])
    assert [str(entry) for entry in resolve_methods(config)[0]] == ["sense", "hfs-5", "hfs-10"]
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, re.MULTILINE)
    assert {name for cell in named for name in re.findall(r"`(\w+)`", cell)} >= set(NAMES), "a recipe has no row"


def test_small_values_come_before_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**BASE, "small": {"store": "tiny", "slices": 3, "methods.tv.num_samples": 2}}))
    assert (load_evaluation(path).store, load_evaluation(path).size) == ("s", "full")
    small = load_evaluation(path, ["size=small", "slices=4"])
    assert (small.store, small.slices, small.methods["tv"].num_samples) == ("tiny", 4, 2)
    path.write_text(yaml.safe_dump(BASE))
    with pytest.raises(ValueError, match="has no section small"):
        load_evaluation(path, ["size=small"])
    path.write_text(yaml.safe_dump({**BASE, "small": {"methods.other.seed": 1}}))
    with pytest.raises(ValueError, match=r"small sets methods\.other\.seed, but there is no section other"):
        load_evaluation(path, ["size=small"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"store": ""}, "give one of store and stores"),
        ({"stores": {"a": {"store": "x"}}}, "give one of store and stores"),
        ({"compare": "tw"}, r"compare: 'tw' is not there.*tv"),
        ({"sweep": {"key": "slices.x", "values": [1], "label": "x"}}, "begins with methods. or masks."),
        ({"sweep": {"key": "masks.seed", "values": [1, 1], "label": "x"}}, "values that differ"),
        ({"sweep": {"key": "masks.seed", "values": ["../x"], "label": "x"}}, "name folders"),
        ({"published": [{"where": "T", "mask": "n", "method": "tv", "psnr": [30, None]}]}, "mask: 'n' is not there"),
        ({"published": [{"where": "T", "mask": "m", "method": "tw", "psnr": [30, None]}]}, "method: 'tw' is not there"),
        ({"published": [{"where": "T", "mask": "m", "method": "tv"}]}, "at least one of psnr"),
        ({"published": [{"where": "T", "mask": "m", "method": "tv", "ssim": [82.5, 1]}]}, "ssim lies between -1 and 1"),
        ({"published": [{"where": "T", "mask": "m", "psnr": [30, None]}]}, "give method, of those that run, or other"),
        ({"methods": {"tv": {"method": "tv", "masks": ["q"]}}}, r"methods\.tv\.masks: 'q' is not there"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(EvaluateConfig, {**BASE, **changes})


def test_a_sweep_changes_the_entries_that_it_names() -> None:
    sweep = {"key": "methods.settings.num_steps", "values": [5, 7], "label": "steps", "entries": ["pc"]}
    config = parse(EvaluateConfig, {**BASE, "sweep": sweep})
    assert {str(entry): plan.settings for entry, plan in method_entries(config).items()} == {
        "tv": {}, "pc-5": {"num_steps": 5}, "pc-7": {"num_steps": 7}
    }  # fmt: skip
    assert list(mask_entries(config)) == [Entry("m")]
    wrong = {"key": "masks.accelaration", "values": [2], "label": "R"}
    with pytest.raises(ValueError, match=r"masks\.m at masks\.accelaration 2: unknown key 'accelaration'"):
        mask_entries(parse(EvaluateConfig, {**BASE, "sweep": wrong}))
    clash = {"m": {"kind": "gaussian1d"}, "m-2": {"kind": "gaussian1d"}}
    sweep = {"key": "masks.acceleration", "values": [2], "label": "R", "entries": ["m"]}
    with pytest.raises(ValueError, match="two entries of masks are called m-2"):
        mask_entries(parse(EvaluateConfig, {**BASE, "masks": clash, "sweep": sweep}))


def test_every_method_has_its_own_prior() -> None:
    methods = {
        "one": {"method": "annealed", "prior": "brain-complex-small"}, "two": {"method": "annealed"},
        "hfs": {"method": "hfs_sde"}, "tv": {"method": "tv"},
    }  # fmt: skip
    plans, priors = resolve_methods(parse(EvaluateConfig, {**BASE, "methods": methods, "prior": None}))
    used = {str(entry): plan.prior.name if plan.prior else None for entry, plan in plans.items()}
    assert used == {"one": "brain-complex-small", "two": "brain-complex", "hfs": "brain-hfs", "tv": None}
    assert sorted(prior.name for prior in priors) == ["brain-complex", "brain-complex-small", "brain-hfs"]
    methods["tv"]["prior"] = "brain-complex"
    with pytest.raises(ValueError, match=r"methods\.tv: tv takes no prior"):
        resolve_methods(parse(EvaluateConfig, {**BASE, "methods": methods}))


def test_cells_that_no_mask_is_for_are_an_error() -> None:
    methods = {"tv": {"method": "tv", "masks": []}}
    config = parse(EvaluateConfig, {**BASE, "methods": methods})
    with pytest.raises(ValueError, match="no method runs under a mask of any store"):
        cell_tasks(config, resolve_methods(config)[0], Path("o"))
