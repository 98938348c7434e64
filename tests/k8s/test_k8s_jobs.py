"""The RayJobs of k8s/: one a verb that can run as a job, each a command of this repository, all else the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from k8s_helpers import K8S, OVERLAYS, REPOSITORY, SERVE_CONFIGS, Manifest, changed, cluster_spec, named, render
from kdrift.cli import VERBS
from kdrift.cli import parse as parse_command
from kdrift.data.convert import ConvertConfig
from kdrift.evaluation.batch import BatchConfig
from kdrift.evaluation.calibrate import CalibrateConfig
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.runs.config import load_config
from kdrift.training.train_config import TrainConfig
from kdrift.training.workers import parse_workers
from kdrift.tuning.tune_config import TuneConfig

WORKDIR = "/opt/kdrift"
CONFIGS = {
    "convert": ConvertConfig,
    "train": TrainConfig,
    "reconstruct": BatchConfig,
    "tune": TuneConfig,
    "evaluate": EvaluateConfig,
    "calibrate": CalibrateConfig,
}
EACH = [(overlay, verb) for overlay in OVERLAYS for verb in CONFIGS]


class Job(NamedTuple):
    """What a RayJob runs."""

    text: str
    options: Any
    config: Any
    """None: the options say it all."""


def job(overlay: str, verb: str) -> Job:
    """Return the command of a verb's RayJob, parsed as kdrift parses it."""
    text = named(render(overlay), "RayJob", f"kdrift-{verb}")["spec"]["entrypoint"]
    python, script, *arguments = shlex.split(text)
    assert (python, script) == ("python", f"jobs/{verb}.py")
    assert (REPOSITORY / script).is_file()
    parsed = parse_command([verb, *arguments])
    assert parsed is not None
    assert parsed.verb == verb
    assert parsed.submit is None
    options = parsed.options
    config = load_config(CONFIGS[verb], REPOSITORY / options.config, options.set) if options.config else None
    return Job(text, options, config)


def test_every_verb_that_can_be_a_job_has_one() -> None:
    verbs = {name for name, verb in VERBS.items() if verb.is_job}
    assert verbs == CONFIGS.keys()
    for overlay in OVERLAYS:
        jobs = {m["metadata"]["name"]: m for m in render(overlay) if m["kind"] == "RayJob"}
        assert jobs.keys() == {f"kdrift-{verb}" for verb in verbs}
        for verb in verbs:
            assert jobs[f"kdrift-{verb}"]["metadata"]["labels"]["app.kubernetes.io/component"] == verb


@pytest.mark.parametrize("verb", CONFIGS)
def test_a_verbs_file_states_its_name_and_its_command_alone(verb: str) -> None:
    (manifest,) = yaml.safe_load_all((K8S / "base" / "rayjobs" / f"{verb}.yaml").read_text())
    assert manifest == {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"kdrift-{verb}", "labels": {"app.kubernetes.io/component": verb}},
        "spec": {"entrypoint": manifest["spec"]["entrypoint"]},
    }


def without_command(manifest: Manifest) -> Manifest:
    return changed(changed(manifest, "metadata", None), "spec.entrypoint", None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_differ_in_nothing_else_and_have_the_one_cluster(overlay: str) -> None:
    resources = render(overlay)
    first, *others = [m for m in resources if m["kind"] == "RayJob"]
    for other in others:
        assert without_command(other) == without_command(first)
    interactive = cluster_spec(named(resources, "RayCluster"))
    same = changed(changed(cluster_spec(first), "workerGroupSpecs.0.replicas", 1), "workerGroupSpecs.0.minReplicas", 1)
    assert interactive == same


@pytest.mark.parametrize(("overlay", "verb"), EACH)
def test_commands_are_of_this_repository(overlay: str, verb: str) -> None:
    text, options, config = job(overlay, verb)
    assert not any(character in text for character in "[]*?$;&|<>"), "a shell reads it"
    # relative paths are below the image's working directory, and what is written goes to the volume
    assert f"WORKDIR {WORKDIR}\n" in (K8S / "Dockerfile").read_text()
    paths = [getattr(source, name, None) for source in (options, config) for name in ("out", "store", "bundle")]
    written = [str(path) for path in paths if path is not None]
    assert written
    assert all(path.startswith("runs/") for path in written)
    if hasattr(options, "resume"):
        assert options.resume, "a lost driver goes on"
    if hasattr(options, "tracking_uri"):
        (service,) = [m for m in render(overlay) if m["kind"] == "Service" and m["metadata"]["name"] == "mlflow"]
        assert options.tracking_uri == f"http://mlflow:{service['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_trainings_workers_are_there_when_it_starts(overlay: str) -> None:
    _, options, config = job(overlay, "train")
    (group,) = cluster_spec(named(render(overlay), "RayJob", "kdrift-train"))["workerGroupSpecs"]
    workers = parse_workers(options.workers)
    assert workers == group["replicas"] == group["minReplicas"]
    assert workers <= config.batch_size
    assert all(store.startswith("runs/") for store in config.data.stores)
    assert config.data.stores == [job(overlay, "convert").options.store], "it trains on what was converted"
    # the same prior is served that is trained
    for path in SERVE_CONFIGS:
        served = yaml.safe_load(path.read_text())["applications"][0]["args"]
        assert f"models:/{config.name}@champion" in served["priors"].values()
        assert served["tracking_uri"] == options.tracking_uri
        assert served["storage"].startswith(f"{WORKDIR}/runs/")


@pytest.mark.parametrize(("overlay", "verb"), EACH)
def test_actors_and_trials_fit_a_worker_and_use_its_gpu(overlay: str, verb: str) -> None:
    config = job(overlay, verb).config
    (group,) = cluster_spec(named(render(overlay), "RayJob", f"kdrift-{verb}"))["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus, gpus = int(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0))
    if hasattr(config, "pool"):
        assert config.pool.cpus <= cpus
        assert config.pool.gpus == gpus
    if isinstance(config, TuneConfig):
        assert config.cpus_per_trial <= cpus
        assert config.gpus_per_trial == gpus


@pytest.mark.parametrize("verb", CONFIGS)
def test_gpu_commands_say_the_gpu_and_are_the_same_otherwise(verb: str) -> None:
    cpu, gpu = (shlex.split(job(overlay, verb).text) for overlay in OVERLAYS)
    assert gpu[: len(cpu)] == cpu
    assert gpu[len(cpu) :] in ([], ["--set", "pool.gpus=1"], ["--set", "gpus_per_trial=1"])


def test_paths_of_configurations_are_in_the_image() -> None:
    dockerfile = (K8S / "Dockerfile").read_text()
    assert {"COPY configs configs", "COPY jobs jobs"} <= set(dockerfile.splitlines())
    for verb in CONFIGS:
        config = job("cpu", verb).options.config
        assert config is None or Path(config).parts[:2] == ("configs", verb)
