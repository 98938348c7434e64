"""Linear operators on the trailing axes of a tensor; leading axes are batch and stay free.

A new operator says its two shapes and writes `_forward` and `_adjoint`; the rest is derived. Where it knows better it
writes `_normal`, and `_solve_exactly` for a closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdrift.mri.cg import conjugate_gradients
from kdrift.mri.fourier import fft2c, ifft2c

Shape = tuple[int, ...]


class LinearOperator(ABC):
    """A linear map from `(*batch, *ishape)` to `(*batch, *oshape)`."""

    @property
    @abstractmethod
    def ishape(self) -> Shape:
        """Trailing shape of what `forward` takes."""

    @property
    @abstractmethod
    def oshape(self) -> Shape:
        """Trailing shape of what `forward` returns."""

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

    def _solve_exactly(self, b: Tensor, lam: Tensor) -> Tensor | None:
        """`(A^H A + lam)^-1 b`, `lam` broadcasting to `b`; None where there is no closed form."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """`A x`: `(*batch, *ishape)` to `(*batch, *oshape)`."""
        self._check("forward", self.ishape, x)
        return self._forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """`A^H y`: `(*batch, *oshape)` to `(*batch, *ishape)`."""
        self._check("adjoint", self.oshape, y)
        return self._adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        """`A^H A x`: `(*batch, *ishape)` to the same shape."""
        self._check("normal", self.ishape, x)
        return self._normal(x)

    def solve_normal(
        self,
        b: Tensor,
        lam: float | Tensor,
        *,
        x0: Tensor | None = None,
        max_iter: int = 50,
        tol: float = 1e-5,
    ) -> Tensor:
        """Return `(A^H A + lam)^-1 b` by conjugate gradients, or in closed form where an operator has one.

        `b` is `(*batch, *ishape)`, `lam` a non-negative number, or a real tensor that broadcasts to the batch axes (one
        value a chain). `x0`, `max_iter` and `tol` are start and end of the conjugate gradients, see `kdrift.mri.cg`; a
        closed form is exact without them.
        """
        self._check("solve_normal", self.ishape, b)
        num_axes = len(self.ishape)
        lam = _expand_lam(lam, b, num_axes)
        exact = self._solve_exactly(b, lam)
        if exact is not None:
            return exact
        return conjugate_gradients(self.normal, b, lam, num_axes=num_axes, x0=x0, max_iter=max_iter, tol=tol)

    def _check(self, what: str, shape: Shape, x: Tensor) -> None:
        """Raise a ValueError that names both shapes unless the trailing shape of `x` is `shape`."""
        if x.shape[max(x.ndim - len(shape), 0) :] != shape:
            raise ValueError(f"{_name(self)}: {what} takes (..., {_join(shape)}), got ({_join(tuple(x.shape))})")

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return Adjoint(self)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """`self @ other`: apply `other` first. Raises ValueError where the shapes do not meet."""
        # only a plain composition is opened up: a subclass has a fast path of its own to keep
        left, right = (each.factors if type(each) is Composition else (each,) for each in (self, other))
        return Composition((*left, *right))


@dataclass(frozen=True, eq=False)
class Adjoint(LinearOperator):
    """`A^H` of an operator `A`."""

    operator: LinearOperator

    @property
    def ishape(self) -> Shape:
        """Output shape of the operator."""
        return self.operator.oshape

    @property
    def oshape(self) -> Shape:
        """Input shape of the operator."""
        return self.operator.ishape

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator.forward(y)

    @property
    def H(self) -> LinearOperator:
        """The operator itself."""
        return self.operator


@dataclass(frozen=True, eq=False)
class Composition(LinearOperator):
    """`factors[0] @ factors[1] @ ...`: the last factor is applied first."""

    factors: tuple[LinearOperator, ...]

    def __post_init__(self) -> None:
        for left, right in zip(self.factors, self.factors[1:], strict=False):
            if left.ishape != right.oshape:
                raise ValueError(
                    f"cannot compose {_name(left)} @ {_name(right)}: {_name(left)} takes (..., "
                    f"{_join(left.ishape)}), {_name(right)} returns (..., {_join(right.oshape)})"
                )

    @property
    def ishape(self) -> Shape:
        """Input shape of the last factor."""
        return self.factors[-1].ishape

    @property
    def oshape(self) -> Shape:
        """Output shape of the first factor."""
        return self.factors[0].oshape

    def _forward(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            x = factor.forward(x)
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        for factor in self.factors:
            y = factor.adjoint(y)
        return y


@dataclass(frozen=True, eq=False)
class _Square(LinearOperator):
    """An operator that takes and returns the same trailing shape."""

    shape: Shape

    @property
    def ishape(self) -> Shape:
        """Trailing shape of input and output."""
        return self.shape

    @property
    def oshape(self) -> Shape:
        """Trailing shape of input and output."""
        return self.shape


@dataclass(frozen=True, eq=False)
class Identity(_Square):
    """`I` on the given trailing shape."""

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True, eq=False)
class Fourier(_Square):
    """`F`: centred orthonormal 2-D transform of trailing axes `(..., row, col)`."""

    def _forward(self, x: Tensor) -> Tensor:
        return fft2c(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return ifft2c(y)


@dataclass(frozen=True, eq=False)
class Sampling(_Square):
    """`M`: keep the samples where the mask is true, zero the others (NaN included).

    `Sampling(shape, mask)`, with trailing shape `(..., row, col)` and a boolean mask `(row, col)` or
    `(col,)`, which is kept with size 1 along an axis on which it is constant.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        mask, (rows, cols) = self.mask, self.shape[-2:]
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be boolean, got {mask.dtype}: pass mask.bool()")
        if mask.shape == (cols,):
            mask = mask[None]
        if mask.shape not in ((rows, cols), (1, cols), (rows, 1)):
            raise ValueError(f"mask has shape {tuple(mask.shape)}, expected ({rows}, {cols}) or ({cols},)")
        if bool((mask == mask[:1]).all()):
            mask = mask[:1]
        if bool((mask == mask[:, :1]).all()):
            mask = mask[:, :1]
        object.__setattr__(self, "mask", mask.clone())

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes along which the mask varies, of -2 and -1; along the others the transform cancels."""
        return tuple(axis for axis in (-2, -1) if self.mask.shape[axis] > 1)

    @cached_property
    def full(self) -> bool:
        """Whether everything is sampled."""
        return bool(self.mask.all())

    def _forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0)

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.where(self.mask, y, 0)


@dataclass(frozen=True, eq=False)
class Sensitivities(LinearOperator):
    """`S`: image to coil images, `(S x)_c = S_c x` or, with several map sets, `sum_s S_sc x_s`.

    `smaps` is `(coil, row, col)` for images `(row, col)` or `(set, coil, row, col)` for images
    `(set, row, col)` (ESPIRiT: Uecker et al., MRM 2014, Eq. 5).
    """

    smaps: Tensor

    def __post_init__(self) -> None:
        if self.smaps.ndim not in (3, 4):
            raise ValueError(
                f"smaps must be (coil, row, col) or (set, coil, row, col), got shape {tuple(self.smaps.shape)}"
            )
        if not self.smaps.is_complex():
            raise ValueError(f"smaps must be complex, got {self.smaps.dtype}: pass smaps.to(torch.complex64)")

    @property
    def has_sets(self) -> bool:
        """Whether there is an axis of map sets, of maps and of images."""
        return self.smaps.ndim == 4

    @property
    def ishape(self) -> Shape:
        """`(row, col)` or `(set, row, col)`."""
        return (*self.smaps.shape[:-3], *self.smaps.shape[-2:])

    @property
    def oshape(self) -> Shape:
        """`(coil, row, col)`."""
        return tuple(self.smaps.shape[-3:])

    def _forward(self, x: Tensor) -> Tensor:
        coils = self.smaps * x.unsqueeze(-3)
        return coils.sum(-4) if self.has_sets else coils

    def _adjoint(self, y: Tensor) -> Tensor:
        coils = y.unsqueeze(-4) if self.has_sets else y
        return (self.smaps.conj() * coils).sum(-3)


def _expand_lam(lam: float | Tensor, b: Tensor, num_axes: int) -> Tensor:
    """`lam` as a real tensor that broadcasts to `b`, whose last `num_axes` axes are no batch axes."""
    batch = b.shape[: b.ndim - num_axes]
    if not isinstance(lam, Tensor):
        if not lam >= 0:
            raise ValueError(f"lam must not be negative, got {lam}")
        return b.real.new_full((), lam)
    if lam.is_complex():
        raise ValueError(f"lam must be real, got {lam.dtype}")
    if lam.ndim > len(batch) or any(
        n not in (1, m) for n, m in zip(reversed(lam.shape), reversed(batch), strict=False)
    ):
        raise ValueError(f"lam has shape {tuple(lam.shape)}, which does not broadcast to the batch {tuple(batch)}")
    return lam.to(b.device, b.real.dtype).reshape((*lam.shape, *(1,) * num_axes))


def _name(operator: LinearOperator) -> str:
    return type(operator).__name__


def _join(shape: Shape) -> str:
    return ", ".join(str(n) for n in shape)
