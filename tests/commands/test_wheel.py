"""The wheel, installed beside nothing of the repository: everything works by name in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and this one's packages after it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("platform", "serve", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], check=True, cwd=folder
    )
    shutil.rmtree(source)
    (wheel,) = folder.glob("kdrift-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv"


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Run a program of the environment in an empty folder; return what it printed."""
    passed = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    passed |= {"KDRIFT_PRESETS": str(tmp_path / "presets"), "PATH": f"{environment / 'bin'}:{passed['PATH']}"}
    (tmp_path / "empty").mkdir()

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path / "empty", env=passed, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_wheel_works_in_an_empty_folder(run: Run, environment: Path) -> None:
    assert run("python -c 'import kdrift; print(kdrift.__file__)'").startswith(str(environment))
    names = {line.split(":")[0]: line for line in run("kdrift config list").splitlines()}
    assert "tiny" in names["train"]
    run("kdrift phantom --out runs/phantom/phantom.h5 --slices 4 --size 64 --coils 4")
    assert "1 converted" in run("kdrift convert --config phantom --quiet")
    store, prior = "'data.stores=[runs/phantom.zarr]'", "prior=runs/tiny/prior"
    trained = run(f"kdrift train --config tiny --out runs/tiny --set {store} --set total_images=64")
    assert "trained on 64 images" in trained
    search = "--set 'data.sources=[runs/phantom.zarr]' --set 'data.slices=[0,4]' --set data.slices_per_volume=2"
    trials = "--set num_trials=2 --set settings.num_steps=4"
    tuned = run(f"kdrift tune --config annealed --name mine --set {prior} {search} {trials}")
    assert "2 trials in" in tuned
    assert "kdrift presets use annealed mine" in tuned
    figures = "--set 'slices=[1,2]' --set methods.annealed.num_samples=1 --set methods.annealed.settings.num_steps=4"
    table = run(f"kdrift evaluate --config phantom --set {prior} {figures}")
    assert "| gaussian8 | annealed | simulated | 1 |" in table
    scan = "kdrift reconstruct runs/phantom.zarr/phantom --prior runs/tiny/prior --slices 1 --samples 2 --mask random"
    assert run(f"{scan} --out a").startswith("annealed: preset tuned (built in), prior ")
    assert run(f"{scan} --out b --preset mine").startswith("annealed: preset mine (your preset), prior ")
    run("kdrift presets use annealed mine")
    assert run(f"{scan} --out c").startswith("annealed: preset mine (your default), prior ")
    assert "annealed" in run("kdrift list methods")
    assert "network evaluations a sample: 4" in run("kdrift info annealed")
    assert "written: tiny.yaml" in run("kdrift config init tiny")
