"""The image without Docker: the build context, what the Dockerfile copies, and its steps in an empty environment."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from k8s_helpers import K8S, REPOSITORY

DOCKERFILE = (K8S / "Dockerfile").read_text()


def tracked() -> list[str]:
    """Return the files of a clean checkout."""
    if not shutil.which("git") or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout: what a clean one holds is unknown")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    return [name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


def context(names: list[str]) -> list[str]:
    """Return the files that .dockerignore lets through; the last pattern that fits decides."""
    patterns = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sent = []
    for name in names:
        kept, parts = True, name.split("/")
        heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        for pattern in patterns:
            plain = pattern.removeprefix("!")
            # `*` stops at a slash, `**/` is any folder
            anywhere = plain.startswith("**/")
            wanted = parts if anywhere else [head for head in heads if head.count("/") == plain.count("/")]
            if any(fnmatch.fnmatchcase(head, plain.removeprefix("**/")) for head in wanted):
                kept = pattern.startswith("!")
        if kept:
            sent.append(name)
    return sent


def test_the_context_is_small_and_has_no_secrets() -> None:
    sent = context(tracked())
    sizes = {
        name: (REPOSITORY / name).stat().st_size
        for name in sent
        # those have limits of their own
        if not name.startswith(("platform/kdrift/prior/shipped/", "serve/kdrift_serve/page/"))
    }
    other = sum(size for name, size in sizes.items() if not name.endswith(".py"))
    assert other < 250e3, f"{other / 1e3:.0f} kB that are no Python: is there data among them?"
    assert max(sizes.values()) < 25e3, f"{max(sizes, key=lambda name: sizes[name])} is no source file"
    assert sum(sizes.values()) < 2.5e6, f"{sum(sizes.values()) / 1e6:.1f} MB"
    assert not [name for name in sent if name.startswith(("tests", "docs", "benchmarks", "."))]
    hostile = [".env", ".git/config", "kdrift.key", ".venv/bin/python", "runs/x/mlflow.db", "demo/store.zarr/zarr.json"]
    assert context([*hostile, "platform/kdrift/__pycache__/a.pyc", "pyproject.toml"]) == ["pyproject.toml"]
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|PASSWORD|SECRET)", DOCKERFILE, re.MULTILINE)


def test_what_the_dockerfile_copies_is_in_the_context() -> None:
    sent = context(tracked())
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for source in (word for line in copies for word in line.split()):
        assert source == "." or any(name == source or name.startswith(f"{source}/") for name in sent), source
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        assert any(name.startswith(f"{folder}/") for name in sent), folder
    assert project["project"]["readme"] in sent


def test_the_image_is_built_in_stages_and_runs_as_nobody() -> None:
    assert DOCKERFILE.count("\nFROM ") == 3
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert {"TORCH", "TORCH_INDEX"} <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    steps = re.findall(r"^RUN .*?k8s/install\.sh (\w+)", DOCKERFILE, re.MULTILINE)
    assert steps == ["dependencies", "package"]


def test_all_extras_are_installed_but_those_of_tests_and_of_the_site() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (line,) = re.findall(r"^EXTRAS=(.*)$", (K8S / "install.sh").read_text(), re.MULTILINE)
    assert set(line.split(",")) == set(extras) - {
        "dev",
        "browser",
        "docs",
    }  # browser: tests of the page; docs: the site


def install(*arguments: str, cwd: Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return subprocess.run(
        [str(cwd / "k8s" / "install.sh"), *arguments],
        cwd=cwd,
        env={**inherited, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )


def test_install_explains_its_use() -> None:
    done = install(cwd=REPOSITORY, path=os.environ["PATH"])
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_dockerfiles_steps_give_a_working_kdrift(tmp_path: Path) -> None:
    source, home = tmp_path / "src", tmp_path / "home"
    home.mkdir()
    for name in context(tracked()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, source / name)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    path = f"{venv / 'bin'}:{os.environ['PATH']}"

    # which build pip finds differs between platforms: the check has to name the right one
    done = install("dependencies", cwd=source, path=path, TORCH="cpu")
    if done.returncode and "is a cuda build" in done.stderr:
        done = install("dependencies", cwd=source, path=path, TORCH="cuda")
    assert done.returncode == 0, done.stderr
    subprocess.run(
        [venv / "bin" / "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), "."], cwd=source, check=True
    )
    (wheel,) = tmp_path.glob("kdrift-*.whl")
    done = install("package", str(wheel), cwd=source, path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No broken requirements" in done.stdout

    # as in the image: only the wheel, jobs and configurations; nothing of the checkout
    place = tmp_path / "opt"
    for folder in ("jobs", "configs"):
        shutil.copytree(source / folder, place / folder)
    shutil.rmtree(source)
    environment = {"PATH": path, "HOME": str(home), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        answer = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    pinned = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split())
    installed = dict(line.split("==") for line in run("pip", "freeze").split() if "==" in line)
    assert {n: v for n, v in installed.items() if n in pinned and v.partition("+")[0] != pinned[n]} == {}
    assert "pytest" not in installed
    run("kdrift", "phantom", "--out", "scan.h5", "--slices", "1", "--size", "48", "--coils", "2")
    run("kdrift", "reconstruct", "scan.h5", "--out", "out", "--method", "cg_sense", "--mask", "equispaced")
    assert (place / "out" / "reconstruction.h5").is_file()
    run(
        "kdrift",
        "reconstruct",
        "scan.h5",
        "--out",
        "posterior",
        "--samples",
        "1",
        "--steps",
        "2",
        "--mask",
        "equispaced",
    )
    assert "Usage" in run("python", "jobs/train.py", "--help")
    page = "import kdrift_serve.app as a, pathlib; print(pathlib.Path(a.__file__).with_name('page').is_dir())"
    assert run("python", "-c", page).strip() == "True"
    for command in ("ray", "serve", "mlflow"):  # what the manifests call, KubeRay's own containers included
        run(command, "--help")
