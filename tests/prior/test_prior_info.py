"""What a prior says of itself: written and read again, strictly; its card; names that are taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import (
    SHIPPED,
    add_calibrations,
    check_name,
    find_prior,
    load_prior,
    read_config,
    read_sums,
    save_prior,
    shipped_for,
    shipped_priors,
    write_description,
)
from kdrift.prior.card import model_card
from kdrift.prior.pinned import pin_prior
from kdrift.prior.prior_info import (
    CardText,
    DataSource,
    ImageScale,
    ImportedFrom,
    NoiseLeft,
    Parent,
    PriorInfo,
    VolumeRecord,
    info_values,
    read_info,
)
from kdrift.runs.files import file_sha256
from kdrift.sde import AttenuatedNoise, HighFrequencyNoise, LowFrequencies, NoiseProcess, WhiteNoise

NETWORK = NetworkConfig(NCSNppConfig(image_size=16, nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=()))
NOISES: list[NoiseProcess] = [
    WhiteNoise(0.01, 5.0),
    HighFrequencyNoise(0.02, 6.0, LowFrequencies("columns", 0.25)),
    AttenuatedNoise(0.01, 1.0, 0.5, 20.0),
]


def full_info(process: NoiseProcess) -> PriorInfo:
    return PriorInfo(
        process,
        ImageScale("quantile", 0.9, 3.5),
        noise_left=(NoiseLeft(0.02, 0.5), NoiseLeft(1.0, 0.125)),
        images=64,
        data=(
            DataSource(
                "heads.zarr",
                (VolumeRecord("a", 4, "ab" * 32), VolumeRecord("b", 5, "cd" * 32)),
                (VolumeRecord("c", 6, "ef" * 32),),
            ),
            DataSource("more.npz", (VolumeRecord("d", 7),), sha256="12" * 32),
        ),
        parents=(Parent("mine/prior", "34" * 32),),
        source=ImportedFrom("x.pth", "56" * 32, "edm", "ema", 7),
        card=CardText("Knees.\n\nTwo paragraphs.", "CC0", "Somebody, 2020"),
        command="kdrift train --config my.yaml",
        kdrift_version="0.1.0",
        mlflow_run="77",
        training={"seed": 3, "data": {"crop": 16, "normalise": "slice"}, "batch_size": 8},
    )


@pytest.mark.parametrize("process", NOISES, ids=lambda process: process.kind)
def test_a_bundle_says_what_was_written(tmp_path: Path, process: NoiseProcess) -> None:
    info = full_info(process)
    folder = save_prior(tmp_path / "p", build_network(NETWORK), NETWORK, info)
    assert load_prior(folder).info == read_config(folder)[1] == info
    assert (folder / "README.md").read_text() == model_card("p", NETWORK, info)
    plain = PriorInfo(process)
    assert read_info(json.loads(json.dumps(info_values(plain))), "plain") == plain


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(values))
    *parents, last = key.split(".")
    inner: Any = copy
    for parent in parents:
        inner = inner[int(parent) if parent.isdigit() else parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("process", ..., "lacks process"),
        ("images", ..., "lacks images"),
        ("scale.number", ..., "scale lacks number"),
        ("scale.rule", "mean", "rule"),
        ("scale.quantil", 0.9, "unknown key 'scale.quantil'"),
        ("imgaes", 3, "unknown key 'imgaes', did you mean 'images'"),
        ("process.kind", "withe", "no noise 'withe', did you mean 'white'"),
        ("process.sigma_max", ..., "process lacks sigma_max"),
        ("process.sigma_max", 0.001, "sigma_min < sigma_max"),
        ("process.low", 1, "unknown key 'low'"),
        ("data.0.nmae", "x", r"unknown key 'data\.0\.nmae', did you mean 'name'"),
        ("data.0.name", ..., r"data\.0\.name is missing"),
        ("noise_left.1.sigma", "high", r"noise_left\.1\.sigma"),
        ("parents.0.sha256", ..., r"parents\.0\.sha256 is missing"),
        ("source.weights", "best", r"source\.weights"),
    ],
)
def test_what_is_missing_or_misspelt_is_one_sentence(tmp_path: Path, key: str, value: Any, sentence: str) -> None:
    folder = save_prior(tmp_path / "p", build_network(NETWORK), NETWORK, full_info(NOISES[0]))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["info"] = changed(config["info"], key, value)
    write_config(folder, config)
    with pytest.raises(ValueError, match=sentence) as error:
        load_prior(folder)
    assert "\n" not in str(error.value)
    assert "prior p: config.yaml: info" in str(error.value)


def write_config(folder: Path, config: Any) -> None:
    """Write a configuration with the checksum that belongs to it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    sums = read_sums(folder) | {"config.yaml": file_sha256(folder / "config.yaml")}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def test_older_bundles_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = save_prior(tmp_path / "p", build_network(NETWORK), NETWORK, PriorInfo(NOISES[0]))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    write_config(folder, {"network": config["network"], "metadata": {"sigma_min": 0.01, "sigma_max": 5.0}})
    with pytest.raises(ValueError, match=r"info is missing: an older kdrift .* train it again, or import"):
        load_prior(folder)
    write_config(folder, ["network"])
    with pytest.raises(ValueError, match="has no section network"):
        load_prior(folder)


def test_the_card_is_what_the_info_says() -> None:
    info = full_info(NOISES[1])
    card = model_card("knees", NETWORK, info)
    for text in (
        "# knees\n\nKnees.\n\nTwo paragraphs.\n",
        "noise: high_frequency, sigma 0.02 to 6 of",
        "the 0.9 quantile of each slice's magnitudes is 1 (of the network's own images it is 3.5)",
        "licence of the data: CC0",
        "citation of the data: Somebody, 2020",
        "- heads.zarr\n    - training: 2 volumes with 9 slices: a (abababababab), b (cdcdcdcdcdcd)\n",
        "    - validation: 1 volume with 6 slices: c (efefefefefef)\n",
        f"- more.npz, sha256 {'12' * 32}\n    - training: 1 volume with 7 slices: d\n",
        f"- starts from the weights of mine/prior, sha256 {'34' * 32}",
        f"- file: x.pth, sha256 {'56' * 32}",
        "made by kdrift 0.1.0, MLflow run 77",
        "      kdrift train --config my.yaml\n",
        "| 0.02 | 0.5000 |\n| 1 | 0.1250 |\n",
    ):
        assert text in card
    bare = model_card("bare", NETWORK, PriorInfo(NOISES[0]))
    assert "licence of the data: not stated\n- citation of the data: not stated" in bare
    assert "Validation" not in bare
    assert "CC-BY" not in bare
    many = replace(info, data=(DataSource("s", tuple(VolumeRecord(f"v{i}", 1) for i in range(40))),))
    assert "v11 and 28 more, listed in config.yaml" in model_card("many", NETWORK, many)


def test_the_card_of_a_network_that_reconstructs_says_what_it_was_shown() -> None:
    network = NetworkConfig(architecture="sr_gan")
    masks = [{"kind": "center", "acceleration": [4.0, 11.0], "acs_fraction": [0.3, 0.5]}]
    shown = {"masks": masks, "num_coils": [4, 8], "maps": None, "snr_db": [22.0, 40.0], "loss": "l1"}
    card = model_card("sharp", network, PriorInfo(None, training={"measurement": shown}))
    assert "- network: sr_gan (features 64, blocks 16)" in card
    assert "- masks in training: center at 4 to 11x, centre 30% to 50%" in card
    assert "- loss: l1\n" in card  # of a bundle from before there were critics
    shown["critic"] = {"weight": 1e-3, "features": 64, "levels": 4}
    card = model_card("sharp", network, PriorInfo(None, training={"measurement": shown}))
    assert "- loss: l1, and a critic's verdict times 0.001\n" in card


@pytest.mark.parametrize("name", shipped_priors())
def test_cards_of_shipped_priors_are_generated_from_what_they_say(name: str, tmp_path: Path) -> None:
    folder = SHIPPED / name
    network, info = read_config(folder)
    assert (folder / "README.md").read_text() == model_card(name, network, info, load_prior(name).calibrations)
    sums, files = read_sums(folder), {"model.safetensors", "config.yaml", "README.md"}
    files |= {"calibration.yaml"} if (folder / "calibration.yaml").exists() else set()
    assert sums == {file: file_sha256(folder / file) for file in files}
    assert info.images
    assert info.figures if network.reconstructs else info.noise_left
    assert info.card.data_licence
    assert info.card.data_citation
    for parent in info.parents:
        if parent.name != "brain-magnitude-small":  # which came with kdrift before
            assert read_sums(find_prior(parent.name))["model.safetensors"] == parent.sha256
    # the writer that made the files makes them again
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    values = yaml.safe_load((folder / "config.yaml").read_text())["network"]
    write_description(tmp_path, values, info, name)
    if calibrations := load_prior(name).calibrations:
        add_calibrations(tmp_path, tmp_path, calibrations)
    assert read_sums(tmp_path) == sums


def test_one_function_finds_a_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = shipped_priors()[0]
    folder = save_prior(tmp_path / name, build_network(NETWORK), NETWORK, PriorInfo(NOISES[0]))
    monkeypatch.chdir(tmp_path)
    assert find_prior(name) == SHIPPED / name  # a shipped name is the shipped prior, whatever lies here
    assert find_prior(f"./{name}") == find_prior(folder) == folder
    assert load_prior(name).sha256 == pin_prior(name).sha256 == read_sums(SHIPPED / name)["model.safetensors"]
    assert load_prior(f"./{name}").sha256 == pin_prior(f"./{name}").sha256 == read_sums(folder)["model.safetensors"]
    assert pin_prior(name).reference == name
    assert pin_prior(f"./{name}").reference == str(folder)
    for find in (find_prior, load_prior, pin_prior):
        with pytest.raises(ValueError, match=r"no prior 'brain-complex-smal': .* did you mean 'brain-complex-small'"):
            find("brain-complex-smal")


def test_names_of_shipped_priors_are_taken() -> None:
    name = shipped_priors()[0]
    with pytest.raises(ValueError, match=f"{name} is the name of a prior that comes with kdrift"):
        check_name(name)
    with pytest.raises(ValueError, match="give yours another name"):
        check_name(name, "0" * 64)
    check_name(name, load_prior(name).sha256)
    check_name("mine")


def test_shipped_priors_are_chosen_by_what_they_say() -> None:
    assert shipped_for("high_frequency") == ("brain-hfs",)
    assert shipped_for("white", "magnitude") == ("brain-magnitude",)
    assert shipped_for("attenuated", "magnitude") == ()
