"""Hybrid deep structured low-rank network (Pramanik, Aggarwal & Jacob 2020, H-DSLR, IEEE TMI, arXiv:1912.03433)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.mri.coils import canonical_phase, combine, rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.networks.reconstructor import ReconstructorConfig, convolution, of_complex


@dataclass(frozen=True)
class HDSLRConfig(ReconstructorConfig):
    """Settings of H-DSLR; the defaults are those of the released model for parallel imaging."""

    iterations: int = 10
    """How often networks and data step alternate, always with the same weights."""
    coils: int = 12
    """Virtual coils that the networks see: more coils are compressed to them, fewer are followed by zeros."""
    features: int = 64
    """Channels of the hidden convolutions."""
    layers: int = 5
    """Convolutions of each of the two networks."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.coils, self.features) < 1 or self.layers < 2:
            raise ValueError(
                "expected iterations, coils and features of at least 1 and 2 layers, got"
                f" {self.iterations}, {self.coils}, {self.features} and {self.layers}"
            )


class HDSLR(nn.Module):
    """Networks that complete the k-space of all coils at once, in k-space and in the image, and soft data steps.

    After k comes argmin |M k' - y|^2 + l1 |k' - N_I(k)|^2 + l2 |k' - N_K(k)|^2, sample by sample
    (y + l1 N_I(k) + l2 N_K(k)) / (M + l1 + l2). N_K stands for the filters that annihilate k-space in structured
    low-rank methods; N_I sees the coil images. Both return their input and what convolutions without bias add to it.
    l1 and l2 are learned.
    """

    def __init__(self, config: HDSLRConfig) -> None:
        super().__init__()
        self.iterations, self.coils = config.iterations, config.coils
        self.image_network, self.kspace_network = _convolutions(config), _convolutions(config)
        self.log_weights = nn.Parameter(torch.zeros(2))

    def forward(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return images `(batch, row, col)`; see `kdrift.networks.reconstructor`.

        Their magnitude is the root sum of squares of coil images; coil maps give the phase alone.
        """
        matrix = virtual_coils(kspace, self.coils)
        coil_images = ifft2c(self.completed(torch.einsum("bvc,bcyx->bvyx", matrix, kspace), mask[:, None]))
        phase = combine(coil_images, torch.einsum("bvc,bcyx->bvyx", matrix, smaps))
        return rss(coil_images) * torch.sgn(phase)

    def completed(self, measured: Tensor, mask: Tensor) -> Tensor:
        """Return the k-space of virtual coils `(batch, coil, row, col)`; the mask is `(batch, 1, row, col)`."""
        image_weight, kspace_weight = self.log_weights.exp()
        kspace = measured
        for _ in range(self.iterations):
            # as what is added to k: it is exactly zero, and has no gradient, where neither data nor networks want more
            wanted = torch.where(mask, measured - kspace, 0)
            wanted = wanted + image_weight * fft2c(of_complex(self.image_network, ifft2c(kspace)))
            wanted = wanted + kspace_weight * of_complex(self.kspace_network, kspace)
            kspace = kspace + wanted / (mask + image_weight + kspace_weight)
        return kspace


def virtual_coils(kspace: Tensor, count: int) -> Tensor:
    """Return the matrices `(batch, count, coil)` to the principal coils of `(batch, coil, row, col)`, strongest first.

    Rows are orthonormal, of the phase of `canonical_phase`; those beyond the number of coils are zero.
    """
    samples = kspace.flatten(2).to(torch.complex128)
    vectors = canonical_phase(torch.linalg.eigh(samples @ samples.mH)[1].flip(-1)[..., :count])
    matrix = torch.zeros(len(kspace), count, kspace.shape[1], dtype=kspace.dtype, device=kspace.device)
    matrix[:, : vectors.shape[-1]] = vectors.mH.to(kspace.dtype)
    return matrix


def _convolutions(config: HDSLRConfig) -> nn.Sequential:
    channels, features = 2 * config.coils, config.features
    layers: list[nn.Module] = [convolution(channels, features), nn.ReLU()]
    for _ in range(config.layers - 2):
        layers += [convolution(features, features), nn.ReLU()]
    return nn.Sequential(*layers, convolution(features, channels, zero=True))
