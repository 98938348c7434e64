"""Stochastic differential equations that take an image to noise; time runs over [0, 1]."""

from kdrift.sde.ve import VESDE

__all__ = ["VESDE"]
