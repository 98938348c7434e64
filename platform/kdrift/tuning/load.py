"""Which kind of search a file is of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdrift.runs.config import apply_overrides, parse, read_yaml
from kdrift.tuning.training_config import TrainingSearchConfig
from kdrift.tuning.tune_config import TuneConfig


def load_search(path: str | Path, overrides: Iterable[str] = ()) -> TuneConfig | TrainingSearchConfig:
    """Read the configuration of a search: of a training's settings where it has the section `train`, else a method's.

    Raises ValueError as `kdrift.runs.config.load_config`.
    """
    values = read_yaml(path)
    apply_overrides(values, overrides)
    if "train" in values:
        return parse(TrainingSearchConfig, values, str(path))
    return parse(TuneConfig, values, str(path))
