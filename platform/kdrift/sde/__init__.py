"""Stochastic differential equations that take an image to noise, and the noise itself; time runs over [0, 1]."""

from kdrift.sde.attenuated import AttenuatedSDE, gaussian_window
from kdrift.sde.attenuated_noise import AttenuatedNoise
from kdrift.sde.base import SDE, Noise, Task
from kdrift.sde.high_frequency import HighFrequencySDE, LowFrequencies
from kdrift.sde.noise_config import AttenuationConfig, NoiseConfig
from kdrift.sde.process import NoiseProcess
from kdrift.sde.ve import VESDE, spaced_levels
from kdrift.sde.vp import VPSDE, SubVPSDE
from kdrift.sde.white_noise import HighFrequencyNoise, WhiteNoise

PROCESSES: dict[Noise, type[NoiseProcess]] = {
    process.kind: process for process in (WhiteNoise, HighFrequencyNoise, AttenuatedNoise)
}
"""The process of each kind, by its name in configurations."""

__all__ = [
    "PROCESSES",
    "SDE",
    "VESDE",
    "VPSDE",
    "AttenuatedNoise",
    "AttenuatedSDE",
    "AttenuationConfig",
    "HighFrequencyNoise",
    "HighFrequencySDE",
    "LowFrequencies",
    "Noise",
    "NoiseConfig",
    "NoiseProcess",
    "SubVPSDE",
    "Task",
    "WhiteNoise",
    "gaussian_window",
    "spaced_levels",
]
