"""Stochastic differential equations that take an image to noise; time runs over [0, 1]."""

from kdrift.sde.attenuated import AttenuatedSDE, gaussian_window
from kdrift.sde.base import SDE, Noise
from kdrift.sde.high_frequency import HighFrequencySDE, LowFrequencies
from kdrift.sde.ve import VESDE, spaced_levels
from kdrift.sde.vp import VPSDE, SubVPSDE

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "AttenuatedSDE",
    "HighFrequencySDE",
    "LowFrequencies",
    "Noise",
    "SubVPSDE",
    "gaussian_window",
    "spaced_levels",
]
