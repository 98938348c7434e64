"""`kdrift list`, `info`, `config` and `presets`: what there is, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdrift.cli import main
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset, find_preset, save_preset
from kdrift.mri.masks import KINDS
from kdrift.prior.bundle import shipped_priors
from kdrift.runs.config_names import config_names, configs_folder, find_config, verbs_with_configs

REPOSITORY = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "presets"


def printed(capsys: Capture, *words: str, status: int = 0) -> str:
    assert main(words) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def rows(capsys: Capture, *words: str) -> list[dict[str, Any]]:
    return json.loads(printed(capsys, *words, "--json"))


def test_lists_are_complete(capsys: Capture) -> None:
    assert [row["method"] for row in rows(capsys, "list", "methods")] == list(METHODS)
    assert [row["prior"] for row in rows(capsys, "list", "priors")] == shipped_priors()
    assert [row["mask"] for row in rows(capsys, "list", "masks")] == list(KINDS)
    assert {(row["method"], row["preset"]) for row in rows(capsys, "list", "presets")} == {
        (name, preset) for name in METHODS for preset in METHODS[name].presets
    }
    configs = {f"{path.parent.name}/{path.stem}" for path in (REPOSITORY / "configs").glob("*/*.yaml")}
    assert {f"{row['verb']}/{row['config']}" for row in rows(capsys, "list", "configs")} == configs
    for what in ("methods", "presets", "priors", "masks", "configs"):
        table, found = printed(capsys, "list", what), rows(capsys, "list", what)
        assert all(str(next(iter(row.values()))) in table for row in found)


def test_info_of_a_method(capsys: Capture, own_presets: Path) -> None:
    save_preset(Preset("annealed", {"num_steps": 7}, "mine"))
    (found,) = rows(capsys, "info", "annealed")
    assert found["summary"] == METHODS["annealed"].summary
    assert found["settings"]["num_steps"] == "int = 40. N, network evaluations of the whole schedule."
    assert all(". " in text for text in found["settings"].values()), "every setting has its help"
    assert found["presets"]["tuned"]["comes from"] == "built in, used by default"
    assert found["presets"]["tuned"]["network evaluations a sample"] == 40
    assert found["presets"]["mine"] == {
        "comes from": "your preset",
        "network evaluations a sample": 7,
        "differs from the defaults": "num_steps 7",
    }
    assert "brain-complex (used by default)" in found["prior"]["those shipped that serve"]
    assert "sigma_max: float = 3.0." in printed(capsys, "info", "annealed")
    assert "none: a classical method" in printed(capsys, "info", "tv")
    both = rows(capsys, "info", "tv", "brain-hfs")
    assert [each["what"] for each in both] == ["method tv", "prior"]
    assert "nothing: no such file or folder" in printed(capsys, "info", "nothing", status=1)


def test_a_file_is_described_rather_than_a_method_of_its_name(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "--out", "annealed", "--slices", "1", "--size", "32", "--coils", "2"]) == 0
    capsys.readouterr()
    assert rows(capsys, "info", "annealed")[0]["what"] != "method annealed"


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_describes_itself(capsys: Capture, name: str) -> None:
    (found,) = rows(capsys, "info", name)
    assert found["source"]
    assert found["summary"]


def test_presets_are_chosen_and_reset(capsys: Capture, own_presets: Path) -> None:
    save_preset(Preset("annealed", {"num_steps": 7}, "mine", {"seed": 3}))
    assert [row["used_by_default"] for row in rows(capsys, "presets", "list", "annealed")] == ["built in", None, None]
    assert printed(capsys, "presets", "use", "annealed", "mine") == (
        "annealed uses preset mine (your default) where none is named\n"
    )
    assert [row["used_by_default"] for row in rows(capsys, "presets", "list", "annealed")] == [
        None,
        None,
        "your default",
    ]
    shown = yaml.safe_load(printed(capsys, "presets", "show", "annealed"))
    assert (shown["name"], shown["settings"], shown["source"]) == ("mine", {"num_steps": 7}, "your default")
    assert find_preset("annealed").name == "mine"
    assert "uses preset tuned (built in)" in printed(capsys, "presets", "reset", "annealed")
    assert (own_presets / "annealed" / "mine.yaml").is_file()
    assert "no preset 'min'; there are tuned, posterior, mine" in printed(
        capsys, "presets", "use", "annealed", "min", status=1
    )
    assert "did you mean 'annealed'?" in printed(capsys, "presets", "use", "anealed", "mine", status=1)
    assert "did you mean 'annealed'?" in printed(capsys, "presets", "reset", "anealed", status=1)


def test_configurations_have_names(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("train", "tiny") == configs_folder() / "train" / "tiny.yaml"
    assert find_config("train", "mine/tiny") == Path("mine/tiny")  # a path, there or not
    assert find_config("train", "tiny.yaml") == Path("tiny.yaml")
    with pytest.raises(ValueError, match=r"no configuration of kdrift train is called 'tyny', did you mean 'tiny'\?"):
        find_config("train", "tyny")
    text = (REPOSITORY / "configs/train/tiny.yaml").read_text()
    assert printed(capsys, "config", "show", "tiny") == printed(capsys, "config", "show", "train/tiny") == text
    listed = printed(capsys, "config", "list")
    assert listed.splitlines() == [f"{verb}: {', '.join(config_names(verb))}" for verb in verbs_with_configs()]
    assert "use it:  kdrift train --config tiny.yaml" in printed(capsys, "config", "init", "tiny")
    assert Path("tiny.yaml").read_text() == text
    assert "tiny.yaml is there already" in printed(capsys, "config", "init", "tiny", status=1)
    assert main(["config", "init", "evaluate/phantom", "--out", "new/mine.yaml"]) == 0
    assert Path("new/mine.yaml").is_file()
    assert "did you mean 'tiny'?" in printed(capsys, "config", "show", "tyny", status=1)
    Path("annealed").write_text("method: dps\n")  # a path goes before a name
    assert find_config("tune", "annealed") == Path("annealed")
