"""`kdrift train`: start the workers on Ray Train, watch them, and turn the last checkpoint into a prior."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdrift.data.dataset import TrainingImages
from kdrift.prior.bundle import CARD, check_name, save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.runs import tracking
from kdrift.runs.cluster import ray_session
from kdrift.runs.config import to_dict
from kdrift.runs.hardware import worker_environment
from kdrift.runs.home import Home, at_home
from kdrift.runs.nodes import check_shared, this_node
from kdrift.runs.outbox import registered
from kdrift.runs.progress import progress
from kdrift.runs.run_folder import OUTBOX, run_folder, tracked_run
from kdrift.training.checkpoint import load_checkpoint, newest_checkpoint, newest_sound
from kdrift.training.loop import new_state
from kdrift.training.provenance import datasets_of, read_figures, read_noise_left, run_info
from kdrift.training.train_config import MAY_CHANGE, TrainConfig
from kdrift.training.watch import watching
from kdrift.training.workers import Lent, Workers, fewest_and_most, lend

RESIZE_S = 60.0
"""How often an elastic run looks for room for more workers, seconds."""


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run left its things."""

    prior: Path
    images: int
    seconds: float
    tracking_uri: str
    run_id: str
    registered: str | None
    """Where it is registered: `models:/name/version`. None where MLflow did not answer: `kdrift track` sends it."""


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    workers: Workers = 1,
    resume: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
    echo: Callable[[str], None] = print,
) -> TrainResult:
    """Train a prior, or a network that reconstructs, on `workers` data-parallel Ray workers and register it.

    Of an elastic run `workers` are the fewest and the most: it goes on with as many as the cluster has room for, and is
    the same run with any number of them.

    `out` (a URL, or a folder, which all nodes of a cluster must share) receives `config.yaml`, `checkpoints/`,
    `previews/`, `log.jsonl`, `prior/` and, by default, MLflow's `mlflow.db`.

    Raises ValueError if the name is that of a shipped prior; if the data has no image; if `out` holds a run and
    `resume` is false, or its run has another configuration, or goes on in another process; if the cluster is too small;
    if the loss became non-finite. Raises OSError if workers failed more often than `checkpoint.max_failures`, or `out`
    is a URL and not all could be sent, and KeyboardInterrupt on Ctrl-C, after the workers have ended; the last
    checkpoint can be resumed.
    """
    check_name(config.name)
    with at_home(out, what="run", echo=echo, keep=True) as home:
        return _train(config, home, workers, resume, address, tracking_uri, quiet, home.telling(echo))


def _train(
    config: TrainConfig, home: Home, workers: Workers, resume: bool, address: str | None, tracking_uri: str | None,
    quiet: bool, echo: Callable[[str], None],
) -> TrainResult:  # fmt: skip
    started, out = time.monotonic(), home.folder
    config = absolute(config)
    fewest, most = fewest_and_most(workers)
    if not 1 <= fewest <= most <= config.batch_size:
        raise ValueError(f"expected 1 to batch_size {config.batch_size} workers, got {workers}")
    # data that cannot be used is named before anything starts
    used = [TrainingImages(config.data, "train", config.seed)]
    if config.data.validation:
        used.append(TrainingImages(config.data, "validation", config.seed))
    num_slices = len(used[0])
    made_from = run_info(config)
    settings, what = to_dict(config), "run"
    with (
        run_folder(out, settings, what=what, free=MAY_CHANGE, kind=TrainConfig, resume=resume),
        tracked_run(out, settings, what=what, name=config.name, tracking_uri=tracking_uri, echo=echo) as run,
    ):
        (out / "progress.json").unlink(missing_ok=True)
        run.outbox.tag(tracking.KIND, "training")
        for dataset in datasets_of(made_from.data):
            run.outbox.dataset(*dataset)
        newest_sound(out / "checkpoints", lambda said: echo(f"note: {said}"))
        job = {"config": settings, "out": str(out), "node": None, "tracking_uri": run.uri, "run_id": run.run_id}
        epochs = config.total_images / num_slices
        echo(f"training {config.name} on {num_slices} slices, {config.total_images} images ({epochs:.1f} epochs)")
        echo(f"{fewest if fewest == most else f'{fewest} to {most}'} worker(s), output in {out}")
        for split in used:
            for note in split.notes:
                echo(f"note: {split.split} images: {note}")
        with (
            ray_session(address, echo=echo) as can_grow,
            progress(config.total_images, "images", quiet=quiet, echo=echo) as meter,
            watching(out / "progress.json", meter, echo),
        ):
            if home.url is None:
                check_shared(out, echo)
            else:
                job["node"] = this_node()
            lent = lend(_nodes(), workers, config.hardware, can_grow=can_grow)
            for note in lent.notes:
                echo(f"note: {note}")
            outcome = _fit(config, job, out, workers, lent)
        if outcome["stopped"]:
            raise ValueError(outcome["stopped"])
        bundle = export_prior(config, out, replace(made_from, mlflow_run=run.run_id))
        run.outbox.describe((bundle / CARD).read_text(), f"All of it: `prior/{CARD}`.")
        run.outbox.register(bundle, config.name)
    version = registered(out / OUTBOX, config.name)
    model = f"models:/{config.name}/{version}" if version else None
    return TrainResult(bundle, outcome["images"], time.monotonic() - started, run.uri, run.run_id, model)


def absolute(config: TrainConfig) -> TrainConfig:
    """Make local stores and files absolute: workers run in a folder of their own."""
    stores = [store if "://" in store else str(Path(store).resolve()) for store in config.data.stores]
    measurement = config.measurement
    if measurement is not None and measurement.maps is not None:
        measurement = replace(measurement, maps=str(Path(measurement.maps).resolve()))
    return replace(config, data=replace(config.data, stores=stores), measurement=measurement)


def _fit(config: TrainConfig, job: dict[str, Any], out: Path, workers: Workers, lent: Lent) -> dict[str, Any]:
    """Run the workers to the end and return rank 0's answer."""
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from kdrift.training.worker import train_worker

    hardware = config.hardware
    environment = {**worker_environment(lent.cpus), "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    trainer = TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config={**job, "threads": lent.cpus},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # typed as Train V1's
            num_workers=workers,  # type: ignore[arg-type]
            use_gpu=lent.gpus > 0,
            resources_per_worker=lent.resources,
            accelerator_type=hardware.accelerator_type,
            placement_strategy=hardware.placement,
            elastic_resize_monitor_interval_s=RESIZE_S,
        ),
        run_config=RunConfig(
            # a new name each time: a used one would resume by Ray's rules, not ours
            name=f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=str(out / "ray"),
            failure_config=FailureConfig(max_failures=config.checkpoint.max_failures),
            worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg]
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise OSError(_first_cause(error)) from None
    except SystemExit:  # what Ray's own handler makes of Ctrl-C
        raise KeyboardInterrupt from None
    returned: dict[str, Any] = result.return_value  # type: ignore[attr-defined]
    return returned


def _nodes() -> list[dict[str, Any]]:
    import ray

    found: list[dict[str, Any]] = ray.nodes()
    return found


def export_prior(config: TrainConfig, out: Path, made_from: PriorInfo) -> Path:
    """Write the moving average of the last checkpoint to `out/prior`; it is made from what stood there at the start."""
    import torch

    newest = newest_checkpoint(out / "checkpoints")
    if newest is None:
        raise ValueError(f"{out / 'checkpoints'} holds no checkpoint")
    content = load_checkpoint(newest)
    state = new_state(config, torch.device("cpu"))
    state.load_state_dict(content)
    left, figures = read_noise_left(content["metrics"]), read_figures(content["metrics"])
    info = replace(made_from, images=content["images"], noise_left=left, figures=figures)
    return save_prior(out / "prior", state.ema, config.network, info, name=config.name)


def _first_cause(error: Exception) -> str:
    """Return one line of a worker group's failure: the last line of the first worker's traceback."""
    causes = getattr(error, "worker_failures", None) or {0: error}
    rank, cause = next(iter(causes.items()))
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"training failed on worker {rank}: {lines[-1] if lines else type(cause).__name__}"
