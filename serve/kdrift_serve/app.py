"""The builder of the application: `serve run configs/serve/local.yaml`, or `kdrift serve`."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from kdrift.prior.pinned import pin_prior
from kdrift.runs.config import parse
from kdrift.runs.hardware import worker_environment
from kdrift_serve.ingress import Ingress
from kdrift_serve.planner import Planner
from kdrift_serve.sampler import Sampler
from kdrift_serve.serve_config import SamplerConfig, ServeConfig

ROUTING: dict[str, Any] = {"max_backoff_s": 0.05}
"""How long, at most, a call that waits for a sampler pauses before it looks again for a free one."""
DRAIN_S = 3600.0
"""How long a sampler that is to end may go on with what it does; without a planner it ends that by itself."""
CALLS_TOLD = {"RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2"}
"""How often a planner tells Ray Serve how many calls wait and run, in seconds."""


def build(args: dict[str, Any]) -> Application:
    """Return the application of a `ServeConfig`; priors are resolved here, once a deploy, and pinned.

    Raises ValueError for an unknown key, a value of the wrong type, or a prior that is not there.
    """
    return build_application(parse(ServeConfig, args, "args"))


def build_application(config: ServeConfig) -> Application:
    """Return the application: ingresses, one planner, and samplers that each do one thing at a time."""
    config = replace(config, database=config.server)  # the same for all processes
    priors = {name: pin_prior(reference, config.tracking_uri) for name, reference in config.priors.items()}
    lifetime: dict[str, Any] = {
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 10,
        "max_constructor_retry_count": 3,
    }
    resources = {
        "num_cpus": config.samplers.num_cpus,
        "num_gpus": config.samplers.num_gpus,
        "runtime_env": {"env_vars": worker_environment(config.samplers.num_cpus)},
    }
    samplers = serve.deployment(
        name="Sampler",
        max_ongoing_requests=1,
        ray_actor_options=resources,
        request_router_config=ROUTING,
        **_number(config.samplers),
        **lifetime | {"graceful_shutdown_timeout_s": DRAIN_S},
    )(Sampler)
    # an SQLite file is for the processes of one machine
    here = {"node:__internal_head__": 0.001} if config.database is None else {}
    light = {"num_cpus": 0, "resources": here, "runtime_env": {"env_vars": worker_environment(1) | CALLS_TOLD}}
    planner = serve.deployment(name="Planner", num_replicas=1, ray_actor_options=light, **lifetime)(Planner)
    ingress = serve.deployment(
        name="Ingress", num_replicas=config.ingresses, max_ongoing_requests=1024, ray_actor_options=light, **lifetime
    )(serve.ingress()(Ingress))
    service = uuid.uuid4().hex
    runs = planner.bind(config, service, priors, samplers.bind(config.samplers, priors, config.storage))
    return ingress.bind(config, service, priors, runs)


def _number(config: SamplerConfig) -> dict[str, Any]:
    """Return how many samplers there are: a number, or as many as there are calls that wait and run (see `JobRuns`)."""
    if config.most == config.replicas:
        return {"num_replicas": config.replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=config.replicas,
            max_replicas=config.most,
            target_ongoing_requests=1,
            look_back_period_s=5,
            upscale_delay_s=3,
            downscale_delay_s=config.idle_s,
        )
    }
