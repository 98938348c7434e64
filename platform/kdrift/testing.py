"""What tests of kdrift, and of operators and methods built on it, share."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdrift.methods import ChainNoise, Chains, Measurement, Method, Options
from kdrift.mri.linop import LinearOperator, Shape
from kdrift.mri.sense import sense_operator
from kdrift.runs.seeds import torch_generator
from kdrift.sde import NoiseConfig
from kdrift.sde.score import ScoreModel


def complex_normal(
    shape: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.complex128,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Complex noise, N(0, 1) in each real component, the same on every device."""
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    generator = torch_generator("test", seed)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=real)).to(device)


def check_operator(
    operator: LinearOperator,
    *,
    batch: Shape = (2,),
    dtype: torch.dtype = torch.complex128,
    device: torch.device | str = "cpu",
    tol: float = 1e-10,
    seed: int = 0,
) -> None:
    """Assert what every operator owes.

    It keeps its shapes; `y . A x = A^H y . x` for random `x` and `y`, with `u . v = sum conj(u) v`; `normal` is `A^H A`
    and, as `forward`, differentiable with the adjoint as its gradient; one element alone gives what it gives in the
    batch; a pickled copy is the same.

    `tol` is relative to the norms of the vectors. Raises AssertionError with the figure that is off.
    """
    x = complex_normal((*batch, *operator.ishape), seed=seed, dtype=dtype, device=device)
    y = complex_normal((*batch, *operator.oshape), seed=seed + 1, dtype=dtype, device=device)
    forward, adjoint = operator.forward(x), operator.adjoint(y)
    assert forward.shape == y.shape, f"forward returns {tuple(forward.shape)}, expected {tuple(y.shape)}"
    assert adjoint.shape == x.shape, f"adjoint returns {tuple(adjoint.shape)}, expected {tuple(x.shape)}"
    assert forward.dtype == adjoint.dtype == dtype, f"{dtype} became {forward.dtype}, {adjoint.dtype}"

    left, right = _dot(y, forward), _dot(adjoint, x)
    error = abs(left - right) / max(float(forward.norm() * y.norm()), 1e-300)
    assert error <= tol, f"y . A x = {left}, A^H y . x = {right}"
    _close(operator.H.forward(y), adjoint, tol, "H.forward and adjoint")

    normal = operator.normal(x)
    _close(normal, operator.adjoint(forward), tol, "normal and adjoint(forward)")
    _close(_gradient(operator.forward, x, y), adjoint, tol, "gradient of forward and adjoint")
    _close(_gradient(operator.adjoint, y, x), operator.forward(x), tol, "gradient of adjoint and forward")
    _close(_gradient(operator.normal, x, normal), operator.normal(normal), tol, "gradient of normal and normal")
    if batch:
        first = (0,) * len(batch)
        _close(operator.forward(x[first]), forward[first], tol, "forward of one element and of the batch")
        _close(operator.normal(x[first]), normal[first], tol, "normal of one element and of the batch")
    copy = pickle.loads(pickle.dumps(operator))
    assert torch.equal(copy.normal(x), normal), "a pickled copy computes something else"


def dense_matrix(
    operator: LinearOperator, *, dtype: torch.dtype = torch.complex128, device: torch.device | str = "cpu"
) -> Tensor:
    """`A` as a matrix (outputs, inputs), flattened in C order; for small shapes."""
    num_inputs = torch.Size(operator.ishape).numel()
    basis = torch.eye(num_inputs, dtype=dtype, device=device).reshape(num_inputs, *operator.ishape)
    return operator.forward(basis).reshape(num_inputs, -1).T


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor, cotangent: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at), at, cotangent)
    return gradient


def _dot(a: Tensor, b: Tensor) -> complex:
    return complex(torch.vdot(a.flatten(), b.flatten()))


def _close(a: Tensor, b: Tensor, tol: float, what: str) -> None:
    error = float((a - b).norm()) / max(float(b.norm()), 1e-300)
    assert error <= tol or float((a - b).norm()) <= 1e-14, f"{what} differ by {error:.1e}"


TAU = 0.7
"""Deviation of the white Gaussian images that samplers are checked with, each real component."""


def gaussian_score(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Exact score of white Gaussian images of deviation TAU under white noise."""
    level = torch.as_tensor(sigma, dtype=x.real.dtype)
    return -x / (TAU**2 + (level**2)[..., None, None] if level.ndim else TAU**2 + level**2)


def gaussian_problem(
    chains: Chains, *, coils: int = 3, sets: int = 1, size: int = 6, noise: float = 0.3, seed: int = 0
) -> Measurement:
    """Return data of a white Gaussian image, half of k-space and its centre sampled, coil maps of norm 1."""
    smaps = complex_normal((sets, coils, size, size), seed=seed)
    smaps = smaps / torch.linalg.vector_norm(smaps, dim=(0, 1))
    smaps = smaps if sets > 1 else smaps[0]
    mask = torch.rand(size, size, generator=torch_generator("test", seed)) < 0.5
    mask[size // 2 - 2 : size // 2 + 2, size // 2 - 2 : size // 2 + 2] = True
    operator = sense_operator(smaps, mask)
    clean = operator.forward(TAU * complex_normal(operator.ishape, seed=seed + 1))
    kspace = torch.where(mask, clean + noise * complex_normal((coils, size, size), seed=seed + 2), 0)
    return Measurement(kspace, mask, smaps, noise, chains=chains)


Posterior = Callable[[Measurement], tuple[Tensor, Tensor]]
"""Mean `(n,)` and covariance `(n, n)` that samples should have, by the data; n values of a sample in C order."""


def gaussian_posterior(
    problem: Measurement, *, prior: Tensor | None = None, coupling: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return mean `(n,)` and covariance `(n, n)` of p(x | y) in closed form, x ~ N(0, prior), n values of a sample.

    Covariances are E[x x^H] / 2, so that the diagonal is the variance of each real component; `prior` is `(n, n)`,
    by default TAU^2. With a `coupling` rho the data's noise has the covariance s^2 + rho^2 A A^H: the x of
    p(x) N(z; x, rho^2) N(y; A z, s^2), which split Gibbs sampling draws.
    """
    matrix = dense_matrix(problem.A)
    unit = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    normal = matrix.mH @ matrix
    weight = torch.linalg.inv(problem.noise_sigma**2 * unit + coupling**2 * normal)
    covariance = torch.linalg.inv(torch.linalg.inv(TAU**2 * unit if prior is None else prior) + weight @ normal)
    return covariance @ weight @ problem.data.reshape(-1), covariance


def posterior_errors(samples: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Return how far off the mean and the covariance of samples are, at most, in Monte Carlo standard errors.

    `samples` are complex `(sample, *parts, row, col)`; mean `(n,)` and covariance `(n, n)` as `gaussian_posterior` has
    them. Of a correct sampler the largest of hundreds of values are 3 to 4.
    """
    count = len(samples)
    samples = samples.reshape(count, -1)
    variance = covariance.diagonal().real
    off = torch.view_as_real(samples.mean(0) - mean) / (variance / count).sqrt()[:, None]
    centred = samples - samples.mean(0)
    found = centred.T @ centred.conj() / (2 * (count - 1)) - covariance
    product, square = variance[:, None] * variance[None], covariance.square().real
    real = found.real / ((product + square) / (2 * count)).sqrt()
    imag = found.imag / ((product - square).clamp(min=1e-12) / (2 * count)).sqrt()
    return float(off.abs().max()), float(torch.stack([real, imag]).abs().max())


def check_sampler(
    method: Method,
    *,
    options: Options | None = None,
    exact: bool | Posterior = False,
    stops_early: bool = False,
    num_chains: int = 400,
    bound: float = 5.0,
) -> None:
    """Assert what every entry of the table of methods owes, on small Gaussian images with their exact score.

    It keeps its shapes, with each number of map sets that it takes; four chains give what they give one by one; it
    calls the network as often as `options.evaluations` says; its progress counts the steps; images are finite where
    the score is zero. Raises AssertionError with the figure that is off.

    Parameters
    ----------
    method
        The entry; a classical method is held to what applies to it.
    options
        Its settings; None: its default preset, with at most 24 steps.
    exact
        The samples also have the mean and the covariance of the posterior in closed form, `gaussian_posterior`, within
        `bound` Monte Carlo standard errors of `num_chains` chains, with each number of map sets; `options` must hold
        the deviation TAU of these images. A function of the data states another mean and covariance in its place.
    stops_early
        Chains may end before all evaluations are made.
    """
    assert method.needs is None or method.samples, "a learned method has no score: check it by check_learned"
    chosen = options or method.preset(None)[1]
    if options is None and hasattr(chosen, "num_steps"):
        chosen = replace(chosen, num_steps=min(24, chosen.num_steps))  # type: ignore[call-arg]
    for sets in range(1, method.max_map_sets + 1):
        problem = gaussian_problem(method.chains, sets=sets)
        if not method.needs_prior:
            image = method.function(problem, options=chosen)
            assert image.shape == problem.A.ishape, f"image is {tuple(image.shape)}, expected {problem.A.ishape}"
            assert torch.equal(image, method.function(problem, options=chosen)), "the same data gave another image"
            continue
        run = _Run(method, problem, chosen)
        together = run.samples(range(4))
        expected = (4, *problem.A.ishape)
        assert together.shape == expected, f"samples are {tuple(together.shape)}, expected {expected}"
        apart = torch.cat([run.samples(range(i, i + 1)) for i in range(4)])
        _close(apart, together, 1e-8, "four chains together and one by one")
        counted, stated = run.calls, chosen.evaluations
        assert counted == stated or (stops_early and counted < stated), f"{counted} network calls, stated {stated}"
        done = [count for count, _ in run.told]
        assert done == list(range(1, len(done) + 1)), f"progress counts {done[:5]}..., expected 1, 2, ..."
        totals = {total for _, total in run.told}
        assert totals == {len(done)} or stops_early, f"progress is of {totals} steps, {len(done)} were made"
        still = _Run(method, problem, chosen, score=lambda x, sigma: 0 * x).samples(range(1))
        assert bool(torch.isfinite(still).all()), "a score of zero gives values that are not finite"
        if exact:
            posterior = gaussian_posterior if exact is True else exact
            _check_posterior(method, problem, chosen, posterior, num_chains, bound)


def check_learned(method: Method, network: nn.Module, *, size: int = 24, tol: float = 1e-4) -> None:
    """Assert what every learned method owes with a network for it: any number of coils, repetition, scale.

    Images have the shape of the data's and are finite; the same data give the same image; data times 7 give the image
    times 7; data of zeros give zeros; a pickled copy is the same. `tol` is relative to the image. Raises AssertionError
    with the figure that is off.
    """
    options, copy = method.preset(None)[1], pickle.loads(pickle.dumps(network))
    for coils in (1, 3):
        problem = gaussian_problem(method.chains, coils=coils, size=size)
        image = method.function(network, problem, options=options)
        assert image.shape == problem.A.ishape, f"image is {tuple(image.shape)}, expected {problem.A.ishape}"
        assert bool(torch.isfinite(image).all()), "the image has values that are not finite"
        assert torch.equal(image, method.function(copy, problem, options=options)), "the same data gave another image"
        seven = method.function(network, replace(problem, kspace=7 * problem.kspace), options=options)
        _close(seven, 7 * image, tol, "the image of 7 times the data and 7 times the image")
        nothing = method.function(network, replace(problem, kspace=0 * problem.kspace), options=options)
        assert not bool(nothing.any()), "data of zeros give an image that is not"


class _Run:
    """One sampler on one problem, its calls of the network and its reports counted in the last run."""

    def __init__(
        self, method: Method, problem: Measurement, options: Options, score: ScoreModel = gaussian_score
    ) -> None:
        self._method, self._problem, self._options, self._score = method, problem, options, score
        self.calls, self.told = 0, list[tuple[int, int]]()

    def samples(self, block: range) -> Tensor:
        """Return the samples `block`."""
        self.calls, self.told = 0, []

        def score(x: Tensor, sigma: float | Tensor) -> Tensor:
            self.calls += 1
            return self._score(x, sigma)

        highest = 1.0 if self._method.needs == "attenuated" else 20.0
        process = NoiseConfig(self._method.noise or "white", sigma_min=0.01, sigma_max=highest).process
        sde = process.sde(*self._problem.mask.shape)
        parts = [range(count) for count in self._problem.A.ishape[:-2]]
        rng = ChainNoise(5, 2, block, *parts, dtype=torch.complex128)
        return self._method.function(
            score, sde, self._problem, rng=rng, options=self._options,
            callback=lambda done, total, images, level: self.told.append((done, total)),
        )  # fmt: skip


def _check_posterior(
    method: Method, problem: Measurement, options: Options, posterior: Posterior, num_chains: int, bound: float
) -> None:
    samples = _Run(method, problem, options).samples(range(num_chains))
    off = posterior_errors(samples, *posterior(problem))
    parts = f"images of shape {tuple(problem.A.ishape)}"
    assert max(off) < bound, f"{parts}: mean off by {off[0]:.1f}, covariance by {off[1]:.1f} standard errors"
