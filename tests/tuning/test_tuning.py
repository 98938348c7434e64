"""Tuning without Ray: configurations, held-out k-space, the objective, the journal, presets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from kdrift import methods
from kdrift.cli import main
from kdrift.methods import METHODS, presets
from kdrift.methods.presets import Preset, find_preset, read_preset, write_preset
from kdrift.mri.coils import calibration_box
from kdrift.mri.heldout import draw_heldout
from kdrift.mri.masks import acs_region, make_mask
from kdrift.prior.bundle import load_prior
from kdrift.recon.chunks import Chunk
from kdrift.recon.plan import Plan
from kdrift.recon.sampling import run_chunk
from kdrift.runs.config import parse, to_dict
from kdrift.runs.run_folder import check_same
from kdrift.tuning.journal import Journal, TrialRecord
from kdrift.tuning.load import load_search
from kdrift.tuning.method_search import MethodSubject
from kdrift.tuning.objective import evaluate_slices, load_cases
from kdrift.tuning.outcome import choose_best, pareto_front, table
from kdrift.tuning.record import Recorder
from kdrift.tuning.search_config import MAY_CHANGE, Axis, start_point
from kdrift.tuning.searcher import searcher
from kdrift.tuning.tune_config import TuneConfig, check_space
from recon_helpers import resolve
from tuning_helpers import tiny_search, write_inputs

REPOSITORY = Path(__file__).resolve().parents[2]
Inputs = tuple[Path, Path]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("tuning"))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/tune").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_searches_are_valid(path: Path) -> None:
    config = load_search(path)
    if isinstance(config, TuneConfig):
        start = find_preset(config.method, config.preset)
        check_space(config, start)
        assert start_of(config, start)
    data = config.data if isinstance(config, TuneConfig) else config.train.data
    assert "patient12*" in data.exclude


def start_of(config: TuneConfig, start: Preset) -> dict[str, Any]:
    """Return the first trial of a search that starts from a preset."""
    options = parse(METHODS[config.method].options, {**start.settings, **config.settings})
    return start_point(config.space, to_dict(options))


def test_mistakes_are_named(inputs: Inputs) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"space": {"noise_scal": {"low": 1, "high": 2}}}, "no setting 'noise_scal', did you mean 'noise_scale'"),
        ({"settings": {"num_step": 3}}, "settings: annealed has no setting 'num_step', did you mean 'num_steps'"),
        ({"space": {"eta": {"lo": 0, "high": 1}}}, "unknown key 'space.eta.lo'"),
        ({"space": {"eta": {"low": 1, "high": 0}}}, "low <= high"),
        ({"space": {"eta": {"low": 0, "high": 1, "log": True}}}, "above 0 where log"),
        ({"space": {"eta": {"low": 0, "choices": [1]}}}, "not both"),
        ({"space": {"eta": {"choices": [[1, 2]]}}}, "choices are numbers, words"),
        ({"space": {"num_steps": {"choices": [4]}}}, "'num_steps' is in both"),
        ({"space": {}}, "space is empty"),
        ({"method": "anealed"}, "did you mean 'annealed'"),
        ({"objective": "mse"}, "objective"),
        ({"num_trials": 0}, "at least 1"),
        ({"heldout_fraction": 1.0}, "between 0 and 1"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            tiny_search(*inputs, **changes)
    config = tiny_search(*inputs, space={"eta": {"low": 0.0, "high": 1.5}})
    with pytest.raises(ValueError, match=r"space: eta 1.5: .*spread and eta in \[0, 1\]"):
        check_space(config, find_preset("annealed"))
    hybrid = {"lambda_start": {"low": 0.1, "high": 1.0}, "lambda_stop": {"low": 0.0, "high": 0.5}}
    config = tiny_search(*inputs, method="score_mri_hybrid", settings={}, space=hybrid)
    with pytest.raises(ValueError, match=r"lambda_start 0.1, lambda_stop 0.5: .*lambda_start >= lambda_stop"):
        check_space(config, find_preset("score_mri_hybrid"))
    begun = to_dict(tiny_search(*inputs))
    with pytest.raises(ValueError, match="num_samples was 1 and is now 2"):
        check_same(begun, to_dict(tiny_search(*inputs, num_samples=2)), MAY_CHANGE, Path("out"))
    check_same(begun, to_dict(tiny_search(*inputs, num_trials=9)), MAY_CHANGE, Path("out"))


def test_start_is_moved_into_the_space(inputs: Inputs) -> None:
    space = {
        "sense_interval": {"low": 1, "high": 9.0, "integer": True},
        "num_steps": {"choices": [20, 30]},
        "lambda_steps": {"low": 10, "high": 20},
        "coupling": {"choices": ["combine", "broadcast"]},
    }
    config = tiny_search(*inputs, method="score_mri_hybrid", settings={}, space=space)
    found = start_of(config, find_preset("score_mri_hybrid", "released"))
    assert found == {"sense_interval": 9, "lambda_steps": 20, "coupling": "broadcast"}  # 500 steps: drawn
    found = start_of(config, find_preset("score_mri_hybrid", "paper"))
    assert found == {"coupling": "combine"}  # 2000 steps, no interval and no lambda_steps: drawn
    found = start_of(config, find_preset("score_mri_hybrid", "released"))
    assert isinstance(found["sense_interval"], int)
    assert Axis(low=2, high=5, integer=True).ends == [2, 5]


@pytest.mark.parametrize("kind", ["equispaced", "gaussian2d"])
def test_held_out_samples_are_sampled_lines_or_points_outside_the_acs(kind: str) -> None:
    mask = make_mask(kind, (48, 40), acceleration=3, acs_fraction=0.15, seed=2).mask  # 8 lines outside of the ACS
    heldout = draw_heldout(mask, 0.25, seed=3)
    assert bool((heldout & ~mask).sum() == 0)
    assert not bool(heldout[acs_region(mask)].any())
    outside = mask.clone()
    outside[acs_region(mask)] = False
    assert int(heldout.sum()) == pytest.approx(0.25 * int(outside.sum()), rel=0.2)
    assert bool((heldout == heldout[:1]).all()) == (kind == "equispaced")
    assert torch.equal(heldout, draw_heldout(mask, 0.25, seed=3))
    assert not torch.equal(heldout, draw_heldout(mask, 0.25, seed=4))
    rows = draw_heldout(mask.T.contiguous(), 0.25, seed=3)
    assert bool((rows == rows[:, :1]).all()) == (kind == "equispaced")
    with pytest.raises(ValueError, match="nothing is sampled outside the ACS"):
        draw_heldout(torch.ones(8, 8, dtype=torch.bool), 0.25, seed=0)


@pytest.mark.parametrize("kind", ["equispaced", "poisson"])
@pytest.mark.parametrize("off", [(0, 12), (9, -13)])
def test_held_out_samples_spare_the_calibration_lines_around_the_echo(kind: str, off: tuple[int, int]) -> None:
    mask = make_mask(kind, (48, 64), acceleration=3, acs_lines=12, seed=2).mask.roll(off, (0, 1))
    if kind == "equispaced":
        mask = mask | (torch.arange(64) == 32)  # a line in the middle is no calibration
    rows, cols = torch.arange(48)[:, None] - 24 - off[0], torch.arange(64) - 32 - off[1]
    kspace = torch.where(mask, torch.exp(-(rows**2 + cols**2) / 30.0).to(torch.complex64), 0)[None]
    acs = calibration_box(mask, kspace=kspace)
    assert acs[1].start <= 32 + off[1] < acs[1].stop
    for seed in range(8):
        spared = draw_heldout(mask, 0.25, seed=seed, kspace=kspace)
        assert not bool((spared[:, acs[1]] if kind == "equispaced" else spared[acs]).any())
        assert int(spared.sum()) > 0
    assert any(bool(draw_heldout(mask, 0.25, seed=seed)[acs].any()) for seed in range(8))


def values(config: TuneConfig, **settings: Any) -> list[float]:
    """Return the objective after each slice."""
    plan = Plan(config.method, "tuned", {**config.settings, **settings}, config.num_samples, config.seed)
    run = resolve(plan, config.prior)
    cases = load_cases(config, run.plan)
    return [row["value"] for row in evaluate_slices(run.plan, run.prior, cases, config.objective)]


@pytest.mark.parametrize("kind", ["random", "gaussian2d"])
def test_objectives_prefer_good_settings(inputs: Inputs, kind: str) -> None:
    """The worse the data are used, the worse every objective says it is, with a reference and without."""
    # a draw whose held-out lines have signal: what holds noise alone is predicted best by a black image
    mask = {"kind": kind, "acceleration": 2.0, "acs_lines": 10, "seed": 24}
    for objective in ("psnr", "ssim", "nmse", "heldout"):
        config = tiny_search(*inputs, objective=objective)
        config = replace(
            config, data=parse(type(config.data), {**to_dict(config.data), "mask": mask, "slices_per_volume": 2})
        )
        found = [values(config, noise_scale=scale)[-1] for scale in (1.0, 100.0, 3000.0)]
        assert (max if config.higher_is_better else min)(found) == found[0], (objective, found)
        if objective == "heldout":
            assert 0 < found[0] < found[1] < found[2]
            assert found[2] > 2 * found[0]


def test_a_search_runs_the_searched_settings_alone(inputs: Inputs) -> None:
    """Neither chains for the deviation nor a check, which would be most of the work."""
    config = tiny_search(*inputs, num_samples=4)
    run = resolve(Plan("annealed", "tuned", {"num_steps": 3}, num_samples=4), config.prior)
    assert {chunk.part for chunk in run.plan.split(4)} == {"samples", "mean", "check"}
    searched = run.plan.mean_alone()
    assert searched.split(4) == [Chunk((0, 4))]
    assert searched.evaluations(4) == 4 * 3
    assert searched.options_of("samples") == run.plan.options
    assert "other chains" not in searched.headline("cpu")
    assert "checked" not in searched.headline("cpu")
    assert (searched.config["checks"], "spread" in searched.config) == (False, False)
    cases = load_cases(config, run.plan, run.prior)[:2]
    images = list[int]()
    assert run.prior is not None
    hook = run.prior.network.register_forward_pre_hook(lambda module, given: images.append(len(given[0])))
    alone = run_chunk(searched, run.prior, cases[0].data, Chunk((0, 4))).network_images
    assert alone == sum(images)
    images.clear()
    assert [row["nfe"] for row in evaluate_slices(run.plan, run.prior, cases, "psnr")] == [3, 3]
    hook.remove()
    assert sum(images) == 2 * alone


def test_held_out_samples_are_never_seen(inputs: Inputs) -> None:
    """Changing them changes the error but not the images."""
    config = tiny_search(*inputs, objective="heldout")
    plan = Plan("annealed", "tuned", {"num_steps": 3}, 3)
    data = load_cases(config, resolve(plan, config.prior).plan)[0].data
    assert data.heldout is not None
    assert not bool((data.mask & data.heldout.mask).any())
    assert float(data.kspace[:, data.heldout.mask].abs().max()) == 0
    assert float(data.heldout.kspace[:, ~data.heldout.mask].abs().max()) == 0
    other = replace(data, heldout=replace(data.heldout, kspace=2 * data.heldout.kspace))
    from kdrift.recon.merge import merge_chunks

    for method, coils in (("annealed", None), ("score_mri_ssos", (0, 2)), ("cg_sense", None)):
        run = resolve(replace(plan, method=method, preset=None, settings={}), config.prior)
        if method == "score_mri_ssos":
            run = resolve(replace(plan, method=method, preset="paper", settings={"num_steps": 3}), config.prior)
        parts = [Chunk((0, 1)), Chunk((1, 3))] if run.num_samples == 3 else [Chunk((0, 1))]
        if coils:
            parts = [Chunk(part.samples, c) for part in parts for c in (coils, (2, 4))]
        first = merge_chunks([run.run_chunk(data, part) for part in parts])
        second = merge_chunks([run.run_chunk(other, part) for part in parts])
        assert torch.equal(first.mean, second.mean)
        assert first.heldout_misfit is not None
        assert second.heldout_misfit != first.heldout_misfit
        whole = merge_chunks([run.run_chunk(data, Chunk((0, run.num_samples)))])
        assert whole.heldout_misfit == pytest.approx(first.heldout_misfit, rel=1e-3)
        unmarked = merge_chunks([run.run_chunk(replace(data, heldout=None), part) for part in parts])
        assert unmarked.heldout_misfit is None
        assert torch.equal(unmarked.mean, first.mean)


def test_data_that_cannot_serve_is_named(inputs: Inputs, tmp_path: Path) -> None:
    config = tiny_search(*inputs)
    for change, message in [
        ({"exclude": ["phan*"]}, "no k-space volume"),
        ({"volumes": ["other*"]}, "no k-space volume"),
        ({"slices": [7, 9]}, "has 4 slices, none in"),
    ]:
        data = parse(type(config.data), {**to_dict(config.data), **change})
        with pytest.raises(ValueError, match=message):
            load_cases(replace(config, data=data), Plan(maps="espirit").resolve())
    cases = load_cases(replace(config, data=replace(config.data, slices_per_volume=2)), Plan(maps="espirit").resolve())
    assert sorted(case.data.index for case in cases) == [1, 3]
    assert all(case.simulated for case in cases)


def test_journal_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    journal.start(1, {"a": 0.1})
    journal.report(1, {"value": 2.0, "slices": 1.0})
    journal.end(1, "complete")
    journal.start(2, {"a": 0.2})
    journal.report(2, {"value": 1.0, "slices": 1.0})
    with path.open("a") as stream:
        stream.write('{"event": "end", "num')
    again = Journal(path)
    assert again.trials == journal.trials
    waiting = again.unfinished({"a": 0.2})
    assert waiting is not None
    assert (waiting.number, waiting.key) == (2, "trial-2")
    assert again.unfinished({"a": 0.1}) is None
    assert again.start(2, {"a": 0.2}).rows == []
    assert Journal(path).trials == again.trials


@pytest.mark.parametrize(
    ("begun", "numbers"), [((), [1, 2, 3]), ((1,), [1, 2, 3]), ((2,), [1, 2, 3]), ((2, 3), [1, 2, 3, 4])]
)
def test_a_search_that_was_killed_tries_its_start(
    inputs: Inputs, tmp_path: Path, begun: tuple[int, ...], numbers: list[int]
) -> None:
    """Whatever had begun before: the start is trial 1, what had begun keeps its number, what is new comes after."""
    config, start = tiny_search(*inputs), {"noise_scale": 1.0, "prior_sigma": 0.5}
    journal = Journal(tmp_path / "trials.jsonl")
    for number in begun:
        journal.start(number, start if number == 1 else {"noise_scale": float(number), "prior_sigma": 0.2})
    made = searcher(config, start, Journal(tmp_path / "trials.jsonl"))
    subject = SimpleNamespace(unit="slices", length=4, figures=())
    created: list[str] = []
    outbox = SimpleNamespace(create=lambda key, name, *rest: created.append(name), tag=lambda *words: None)
    again = Journal(tmp_path / "trials.jsonl")
    recorder = Recorder(config, subject, again, outbox, tmp_path, SimpleNamespace(), print)  # type: ignore[arg-type]
    for place in range(1, len(numbers) + 1):
        settings = made.suggest(f"trial-{place}")
        trial = SimpleNamespace(trial_id=f"trial-{place}", config=settings, experiment_tag=f"{place}_x")
        recorder.on_trial_start(0, [], trial)
    assert sorted(created) == [f"{config.name}-{number:03d}" for number in numbers]
    assert again.trials[1].settings == start
    for number in begun:
        assert again.trials[number].settings == journal.trials[number].settings


def test_best_and_front(inputs: Inputs) -> None:
    def trial(number: int, value: float, seconds: float, state: Any = "complete") -> TrialRecord:
        row = {"value": value, "psnr": value, "seconds": seconds, "slices": 4.0}
        return TrialRecord(number, {"noise_scale": 1.0, "prior_sigma": 0.1 * number}, [row], state)

    config = tiny_search(*inputs, pareto=True)
    trials = [trial(1, 20, 2), trial(2, 25, 3), trial(3, 24, 4), trial(4, 30, 9), trial(5, 40, 1, "stopped")]
    assert choose_best(config, trials).number == 4
    assert [t.number for t in pareto_front(config, trials)] == [1, 2, 4]
    lines = table(config, MethodSubject.figures, trials).splitlines()
    assert lines[0] == "trial,state,noise_scale,prior_sigma,psnr,seconds,slices"
    assert lines[5].startswith("5,stopped,1.0,0.5,40")
    assert choose_best(replace(config, objective="nmse"), trials).number == 1
    with pytest.raises(OSError, match="no trial finished"):
        choose_best(config, trials[4:])


def test_presets_are_found_by_name_and_used_by_default_when_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "mine"))
    assert presets.preset_folder() == tmp_path / "mine"
    assert find_preset("annealed").provenance == {}
    assert (find_preset("score_mri_hybrid").name, find_preset("score_mri_hybrid").source) == ("paper", "built in")
    found = Preset("score_mri_hybrid", {"num_steps": 40}, "forty", provenance={"seed": 3})
    path = presets.save_preset(found)
    assert path == tmp_path / "mine" / "score_mri_hybrid" / "forty.yaml"
    assert list(path.parent.iterdir()) == [path]
    assert find_preset("score_mri_hybrid", "forty") == found
    assert find_preset("score_mri_hybrid", "forty").source == "your preset"
    assert find_preset("score_mri_hybrid").name == "paper"  # not before it is chosen
    with pytest.raises(ValueError, match="no preset 'fifty'; there are paper, released, forty"):
        presets.choose_default("score_mri_hybrid", "fifty")
    presets.choose_default("score_mri_hybrid", "forty")
    assert find_preset("score_mri_hybrid") == found
    assert find_preset("score_mri_hybrid").source == "your default"
    assert find_preset("score_mri_hybrid", "paper").provenance == {}
    assert find_preset("annealed").name == "tuned"
    monkeypatch.setenv("KDRIFT_PRESETS", "")
    assert find_preset("score_mri_hybrid").name == "paper"
    with pytest.raises(ValueError, match="KDRIFT_PRESETS is empty"):
        presets.choose_default("score_mri_hybrid", "released")
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "mine"))
    path.unlink()
    with pytest.raises(ValueError, match="is gone: kdrift presets reset score_mri_hybrid"):
        find_preset("score_mri_hybrid")
    presets.choose_default("score_mri_hybrid", None)
    assert find_preset("score_mri_hybrid").name == "paper"
    monkeypatch.delenv("KDRIFT_PRESETS")
    assert presets.preset_folder() == Path.home() / ".kdrift" / "presets"


def test_a_search_takes_nobodys_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path))
    presets.check_free("annealed", "mine", None)
    with pytest.raises(ValueError, match="'tuned' is a built-in preset of annealed"):
        presets.check_free("annealed", "tuned", None)
    with pytest.raises(ValueError, match="a search is named with letters"):
        presets.check_free("annealed", "../mine", None)
    presets.save_preset(Preset("annealed", {}, "mine", {"mlflow_run": "a"}))
    presets.check_free("annealed", "mine", "a")  # its own, resumed
    with pytest.raises(ValueError, match="you have a preset 'mine' of annealed already"):
        presets.check_free("annealed", "mine", "b")


def test_a_preset_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    for content, message in [
        ("method: [", "not valid YAML"),
        ("- 3", "expected a mapping"),
        ("method: score_mri_hybrid\nsettings: {num_step: 3}", "did you mean 'num_steps'"),
        ("method: anealed\nsettings: {}", "did you mean 'annealed'"),
        ("method: annealed\nsettings: {}", "is of method annealed, asked for score_mri_hybrid"),
        ("method: score_mri_hybrid\nsetting: {}", "did you mean 'settings'"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_preset(path, "score_mri_hybrid")


def test_resolve_takes_presets_by_name_and_as_they_are(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path))
    prior = load_prior(inputs[0])
    mine = Preset("annealed", {"num_steps": 7, "eta": 0.5}, "mine", provenance={"seed": 3})
    path = presets.save_preset(mine)
    assert path is not None
    presets.choose_default("annealed", "mine")
    config = resolve(Plan(settings={"eta": 0.25}), prior).config
    assert (config["options"]["num_steps"], config["options"]["eta"]) == (7, 0.25)
    assert (config["preset"], config["preset_provenance"]) == ("mine", {"seed": 3})
    assert config["preset_source"] == "your default"
    pinned = Plan().resolve(prior).plan
    assert pinned.preset == mine
    assert Plan(method="tv").resolve().config["preset"] == "default"
    path.unlink()
    presets.choose_default("annealed", None)
    assert resolve(pinned, prior).config["preset_provenance"] == {"seed": 3}
    assert "preset_provenance" not in resolve(Plan(), prior).config
    with pytest.raises(ValueError, match="the preset is of method annealed, asked for score_mri"):
        resolve(Plan("score_mri", mine), prior)


def test_a_preset_in_the_old_place_is_not_ignored_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path))
    write_preset(Preset("tv", {"weight": 0.1}, "old"), tmp_path / "tv.yaml")
    with pytest.raises(ValueError, match=r"tv\.yaml is no longer used by default: move it to .*/tv/NAME\.yaml and run"):
        find_preset("tv")
    assert find_preset("tv", "default").source == "built in"
    (tmp_path / "tv").mkdir()
    (tmp_path / "tv.yaml").rename(tmp_path / "tv/mine.yaml")
    presets.choose_default("tv", "mine")
    assert find_preset("tv").settings == {"weight": 0.1}


def test_reconstruct_says_which_preset_it_uses(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "mine"))
    settings = {**to_dict(METHODS["annealed"].presets["tuned"]), "num_steps": 4}
    mine = Preset("annealed", settings, "mine", provenance={"a": 1})
    prior, scan = inputs
    arguments = ["reconstruct", str(scan), "--prior", str(prior), "--samples", "1", "--slices", "1", "--mask", "random",
                 "--acceleration", "2", "--acs-lines", "10", "--steps", "3"]  # fmt: skip
    file = presets.save_preset(mine)
    assert file is not None
    other = write_preset(replace(mine, settings={"num_steps": 5}, name="other"), tmp_path / "other.yaml")
    for extra, name, source, provenance in [
        ([], "tuned", "built in", None),
        (["--preset", "mine"], "mine", "your preset", {"a": 1}),
        (["--preset", str(other)], "other", "a file", {"a": 1}),
    ]:
        assert main([*arguments, *extra, "--out", str(tmp_path / "r")]) == 0
        config = json.loads((tmp_path / "r/metrics.json").read_text())["config"]
        assert (config["preset"], config["preset_source"]) == (name, source)
        assert config.get("preset_provenance") == provenance
        first = capsys.readouterr().out.splitlines()[0]
        assert first == f"annealed: preset {name} ({source}), prior tiny, 3 steps, 1 sample, cpu"
    assert main(["presets", "use", "annealed", "mine"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out.startswith("annealed: preset mine (your default), ")
    file.write_text(yaml.safe_dump({"method": "annealed", "settings": {"et": 1}}))
    assert main([*arguments, "--out", str(tmp_path / "r")]) == 1


def test_what_a_search_found_can_come_as_the_preset_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Preset("dds", {"eta": 0.25, "cg_iterations": 3}, "dds-200", {"objective": "psnr"})
    write_preset(found, tmp_path / "dds.yaml")
    for module in (methods, presets):
        monkeypatch.setattr(module, "TUNED", tmp_path)
    presets._searched.cache_clear()
    table = dict(methods._with_tuned())
    assert table["dds"].preset(None) == ("tuned", table["dds"].options(**found.settings))
    assert "tuned" not in table["dps"].presets  # its file comes with kdrift, not in this folder
    monkeypatch.setitem(METHODS, "dds", table["dds"])
    assert find_preset("dds").provenance == {"objective": "psnr"}
    assert find_preset("dds", "paper").provenance == {}
