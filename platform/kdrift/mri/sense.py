"""The measurement operators of Cartesian MR imaging, with the normal operators that samplers run on.

Both use one fact: `F^-1 M F` is a circular convolution. It commutes with the shifts of a centred
transform, so the mask alone is shifted; and along an axis on which the mask does not depend the
transform cancels and is not computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdrift.mri.fourier import filter2c
from kdrift.mri.linop import Composition, Fourier, LinearOperator, Sampling, Sensitivities, Shape

# Complex values in a temporary: four coil images of 320 x 320 stay in a CPU's cache (and below the size from
# which malloc maps and faults new pages on every call); an accelerator wants many at once.
_CPU_CHUNK = 4 * 320 * 320
_ACCELERATOR_CHUNK = 2**26


def sense_operator(smaps: Tensor, mask: Tensor) -> LinearOperator:
    """`A = M F S`, from an image to undersampled multi-coil k-space (Pruessmann et al., MRM 2001).

    `smaps` are `(coil, row, col)`, for images `(*batch, row, col)`; or two ESPIRiT sets `(set, coil, row, col)`, for
    images `(*batch, set, row, col)`. `mask` is boolean, `(row, col)` or `(col,)`, true where k-space is sampled;
    k-space `(*batch, coil, row, col)` is zero elsewhere. `normal` is fused; `solve_normal` is closed for one coil with
    `|S| = 1` and for full sampling with one map set. Raises ValueError where the shapes do not fit each other or the
    mask is not boolean.
    """
    sensitivities = Sensitivities(smaps)
    shape = sensitivities.oshape
    return SenseOperator((Sampling(shape, mask.to(smaps.device)), Fourier(shape), sensitivities))


def coil_operator(mask: Tensor, shape: Shape) -> LinearOperator:
    """`A = M F` on coil images, each on its own (Score-MRI Alg. 4); `solve_normal` is closed.

    `mask` is boolean, `(row, col)` or `(col,)`; `shape` is `(row, col)`, coils being batch, or `(coil, row, col)`.
    """
    return CoilOperator((Sampling(shape, mask), Fourier(shape)))


@dataclass(frozen=True, eq=False)
class CoilOperator(Composition):
    """`M F` with `A^H A = F^-1 M F` and `(A^H A + lam)^-1 = F^-1 (M + lam)^-1 F`, the pseudo-inverse for `lam` 0."""

    def _normal(self, x: Tensor) -> Tensor:
        sampling = _sampling(self)
        return filter2c(x, sampling.mask, sampling.axes)

    def _solve_exactly(self, b: Tensor, lam: Tensor) -> Tensor:
        sampling = _sampling(self)
        return filter2c(b, _inverse(sampling.mask + lam), sampling.axes)


@dataclass(frozen=True, eq=False)
class SenseOperator(Composition):
    """`M F S` with a fused `A^H A`; made by `sense_operator`."""

    # 0 where k-space is not sampled, else (1, -1) for (real, imaginary): masks and conjugates at once
    _pattern: Tensor = field(init=False, repr=False)
    _unit_coil: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        smaps, sampling = self.smaps, _sampling(self)
        one_set = not self._sensitivities.has_sets
        shifts = [-(sampling.mask.shape[axis] // 2) for axis in (-2, -1)]
        weights = sampling.mask.roll(shifts, (-2, -1)).to(torch.float32)
        object.__setattr__(self, "_pattern", torch.stack([weights, -weights], -1))
        unit = one_set and len(smaps) == 1 and bool(((smaps.abs() - 1).abs() < 1e-6).all())
        object.__setattr__(self, "_unit_coil", unit)

    def __reduce__(self) -> tuple[Any, ...]:
        return SenseOperator, (self.factors,)

    @property
    def smaps(self) -> Tensor:
        """The coil sensitivity maps."""
        return self._sensitivities.smaps

    @property
    def _sensitivities(self) -> Sensitivities:
        last = self.factors[-1]
        assert isinstance(last, Sensitivities)
        return last

    def _normal(self, x: Tensor) -> Tensor:
        """`sum_c conj(S_c) F^-1 M F S_c x`, some coil images at a time; differentiable in `x`."""
        if self.smaps.requires_grad and torch.is_grad_enabled():
            return super()._normal(x)  # learned maps need a graph through them
        image: Tensor = _SenseNormal.apply(x.to(torch.promote_types(x.dtype, self.smaps.dtype)), self)
        return image

    def _solve_exactly(self, b: Tensor, lam: Tensor) -> Tensor | None:
        sampling, smaps = _sampling(self), self.smaps
        if self._unit_coil:
            weights = _inverse(sampling.mask + lam)
            return smaps[0].conj() * filter2c(smaps[0] * b, weights, sampling.axes)
        if sampling.full and not self._sensitivities.has_sets:
            return b * _inverse(smaps.abs().square().sum(0) + lam)
        return None


class _SenseNormal(torch.autograd.Function):
    """`A^H A` is self-adjoint: it is its own vector-Jacobian product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: SenseOperator) -> Tensor:
        ctx.operator = operator
        smaps = operator.smaps.reshape(-1, *operator.smaps.shape[-3:])
        chains = x.reshape(-1, len(smaps), *x.shape[-2:])
        return _fused_normal(chains, smaps, operator._pattern, _sampling(operator).axes).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _SenseNormal.apply(grads[0], ctx.operator), None


def _fused_normal(x: Tensor, smaps: Tensor, pattern: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`A^H A x` for `x` `(chain, set, row, col)` and `smaps` `(set, coil, row, col)`.

    With the forward transform alone, `F^-1 k = conj(F conj(k))` up to scale, so that
    `sum_c conj(S_c) F^-1 M F S_c x = conj(sum_c S_c F conj(M F S_c x))` needs no conjugated copy of the
    maps, and the scale is paid once on the image.
    """
    coil_step, chain_step = _steps(smaps.shape, x.device.type)
    out = torch.zeros_like(x)
    for coil in range(0, smaps.shape[1], coil_step):
        maps = smaps[:, coil : coil + coil_step]
        for chain in range(0, len(x), chain_step):
            chains = x[chain : chain + chain_step]
            coils = maps[0] * chains[:, 0, None]
            for image_set in range(1, len(maps)):
                coils.addcmul_(maps[image_set], chains[:, image_set, None])
            coils = torch.fft.fftn(coils, dim=axes) if axes else coils
            torch.view_as_real(coils).mul_(pattern)
            coils = torch.fft.fftn(coils, dim=axes) if axes else coils
            for image_set in range(1, len(maps)):
                out[chain : chain + chain_step, image_set] += (maps[image_set] * coils).sum(1)
            out[chain : chain + chain_step, 0] += coils.mul_(maps[0]).sum(1)
    scale = 1.0
    for axis in axes:
        scale /= x.shape[axis]
    return out.conj_physical_().mul_(scale)


def _steps(shape: torch.Size, device: str) -> tuple[int, int]:
    """How many coils, and how many chains, to take at a time."""
    num_coils, rows, cols = shape[1:]
    limit = _CPU_CHUNK if device == "cpu" else _ACCELERATOR_CHUNK
    coil_step = max(1, min(num_coils, limit // (rows * cols)))
    # One chain at a time on a CPU: rounding then cannot depend on the batch, and nothing is lost
    return coil_step, 1 if device == "cpu" else max(1, limit // (coil_step * rows * cols))


def _sampling(operator: Composition) -> Sampling:
    sampling = operator.factors[0]
    assert isinstance(sampling, Sampling)
    return sampling


def _inverse(diagonal: Tensor) -> Tensor:
    """`1 / diagonal`, and 0 where it is 0 (the pseudo-inverse)."""
    return torch.where(diagonal > 0, 1 / torch.where(diagonal > 0, diagonal, 1), 0)
