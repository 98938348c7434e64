"""What every SDE of images shares: a kernel whose mean and noise are scaled on the part of the image that diffuses.

With P the projection on that part (the identity for VE, VP and sub-VP, a high-pass filter for HFS) the kernel is
x_t = x_0 + (alpha(t) - 1) P x_0 + std(t) P z. Training draws from it and samplers invert it: one definition for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kdrift.networks import Reconstructor

if TYPE_CHECKING:
    from kdrift.sde.score import ScoreModel


Noise = Literal["white", "high_frequency", "attenuated"]
"""What a prior removes: noise of the whole image (VE, VP, sub-VP, EDM: only their scales differ), of its high
frequencies alone (HFS-SDE), or noise of coil images together with the attenuation of their k-space (AK-Diffusion).
`kdrift.sde.PROCESSES` has the object of each."""
Task = Noise | Reconstructor
"""What a network was trained for: to remove a noise, as priors do, or to reconstruct, each as its own architecture."""


class SDE(ABC):
    """dx = rate(t) P x dt + diffusion(t) P dw, time in [0, 1].

    `t` is a tensor, a scalar or one value an image that broadcasts against `(*batch, row, col)`; `std` and `sigma` are
    standard deviations of each real component.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the signal in the kernel's mean."""

    @abstractmethod
    def std(self, t: Tensor) -> Tensor:
        """Standard deviation of the kernel's noise."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Factor of the drift: d log alpha / dt."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), the factor of the Wiener process."""

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """Time at which std / alpha, the noise level of the image at its own scale, is `sigma`."""

    def project(self, x: Tensor) -> Tensor:
        """P, the part of an image that diffuses: all of it unless a subclass says otherwise."""
        return x

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at the image's own scale, std / alpha: what score models are asked at."""
        return self.std(t) / self.alpha(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), of the shape of x."""
        return self.rate(t) * self.project(x)

    def discretize(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Factors f and G of one forward step from `stop` to the later `start`: x + f P x + G P z.

        Euler-Maruyama, with both factors taken at `start`, unless a subclass has a published discretisation.
        """
        dt = start - stop
        return self.rate(start) * dt, self.diffusion(start) * torch.sqrt(dt)

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of p(x_t | x_0) and the standard deviation of its noise, which is `std P z`."""
        return x0 + (self.alpha(t) - 1) * self.project(x0), self.std(t)

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw from p(x_t | x_0) with unit `noise` of the shape of x0."""
        mean, std = self.marginal(x0, t)
        return mean + std * self.project(noise)

    def prior_sample(self, noise: Tensor) -> Tensor:
        """Turn unit noise into a sample at t = 1, where nothing of the diffusing part of an image is left."""
        return self.std(noise.real.new_tensor(1.0)) * self.project(noise)

    def score(self, model: ScoreModel, x: Tensor, t: Tensor, *, projected: bool = True) -> Tensor:
        """Score of x_t from a score model of images at their own scale.

        The model is asked at x / alpha (on the diffusing part) and std / alpha; its answer, divided by alpha, is
        (mean(E[x_0 | x_t]) - x_t) / std^2. Without `projected` it is not passed through P.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        scaled = x + (1 / alpha - 1) * self.project(x)
        score = model(scaled, sigma if sigma.ndim else float(sigma)) / alpha  # one time for all is a number of the host
        return self.project(score) if projected else score
