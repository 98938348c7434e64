"""ISTA-Net+ (Zhang & Ghanem 2018, ISTA-Net, CVPR, arXiv:1706.07929, section 4), for coils."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.mri.coils import combine
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.networks.reconstructor import ReconstructorConfig, convolution, of_complex, peak


@dataclass(frozen=True)
class ISTANetConfig(ReconstructorConfig):
    """Settings of ISTA-Net+."""

    layers: int = 9
    """Layers (the paper's phases), each an iteration of ISTA with a step, a threshold and transforms of its own."""
    features: int = 32
    """Channels of the transforms."""
    symmetry: float = 0.01
    """Weight in the loss of training of how far backward transforms are from inverting forward ones (the paper's
    gamma); 0: they are free."""

    def __post_init__(self) -> None:
        if min(self.layers, self.features) < 1:
            raise ValueError(f"expected layers and features of at least 1, got {self.layers} and {self.features}")
        if self.symmetry < 0:
            raise ValueError(f"expected symmetry of at least 0, got {self.symmetry}")

    @property
    def penalty_weight(self) -> float:
        """Weight of the symmetry penalty in the loss of training."""
        return self.symmetry


class ISTALayer(nn.Module):
    """r = x - rho A^H (A x - y), and r + G(H~(soft(H(D(r)), theta))), images to images.

    D and G are convolutions, H and H~ (forward and backward transform) two with a ReLU between them; rho and theta are
    learned. G starts at zero, so that a fresh layer is a gradient step.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor([0.5]))
        self.threshold = nn.Parameter(torch.tensor([0.01]))
        self.expand = convolution(2, features)
        self.analysis = nn.Sequential(convolution(features, features), nn.ReLU(), convolution(features, features))
        self.synthesis = nn.Sequential(convolution(features, features), nn.ReLU(), convolution(features, features))
        self.reduce = convolution(features, 2, zero=True)

    def forward(self, image: Tensor, kspace: Tensor, mask: Tensor, smaps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient step r and the image after the layer, `(batch, row, col)`."""
        misfit = torch.where(mask[:, None], fft2c(smaps * image[:, None]) - kspace, 0)
        stepped = image - self.step * combine(ifft2c(misfit), smaps)
        return stepped, stepped + of_complex(self.missing, stepped)

    def missing(self, x: Tensor) -> Tensor:
        """Return G(H~(soft(H(D(x)), theta))) of `(batch, 2, row, col)`."""
        found: Tensor = self.reduce(self.synthesis(self.soft(self.analysis(self.expand(x)))))
        return found

    def soft(self, x: Tensor) -> Tensor:
        """Return sign(x) max(|x| - theta, 0)."""
        return torch.sgn(x) * torch.relu(x.abs() - self.threshold)

    def asymmetry(self, image: Tensor) -> Tensor:
        """Return the mean of (H~(H(D(x))) - D(x))^2 over a batch `(batch, row, col)`."""
        expanded = self.expand(torch.view_as_real(image).movedim(-1, 1))
        difference: Tensor = self.synthesis(self.analysis(expanded)) - expanded
        return difference.to(torch.float32).square().mean()


class ISTANet(nn.Module):
    """Layers from the zero-filled image on, A = M F S with the maps that are given.

    Data are divided by the maximum of the zero-filled magnitude, for which thresholds are learned.
    """

    def __init__(self, config: ISTANetConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ISTALayer(config.features) for _ in range(config.layers)])

    def forward(
        self, kspace: Tensor, mask: Tensor, smaps: Tensor, *, penalised: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return images `(batch, row, col)`; see `kdrift.networks.reconstructor`.

        With `penalised` also the symmetry penalty: the mean square of each layer, summed over layers.
        """
        image = combine(ifft2c(kspace), smaps)
        scale = peak(image)
        image, kspace, penalty = image / scale, kspace / scale[:, None], torch.zeros((), device=kspace.device)
        for layer in self.layers:
            stepped, image = layer(image, kspace, mask, smaps)
            if penalised:
                penalty = penalty + layer.asymmetry(stepped)  # type: ignore[operator]
        return (image * scale, penalty) if penalised else image * scale
