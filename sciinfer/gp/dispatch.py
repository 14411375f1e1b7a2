"""One door to Gaussian processes: picks the back-end that suits kernel and inputs, and says which and how exact."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, StateError
from .kernels import Kernel
from .kernels.base import log_parameter
from .markov import MarkovGP
from .observations import Observed

if TYPE_CHECKING:
    from .spatial.vecchia import VecchiaGP

Way = Literal["auto", "markov", "dense", "vecchia"]
#: points up to which one Cholesky factor is cheaper than it is worth to approximate
DENSE = 2000
#: points of which a state-space answer is compared with a dense one
_CHECKED = 200


class GP(nn.Module):
    """A Gaussian process over times or points, by the back-end that suits the data.

    Inputs on a line and a kernel of time: the exact state-space form, O(N). Otherwise at most 2000 points: a dense
    Cholesky factor. Otherwise: Vecchia's approximation. :meth:`explain` says what was taken, why and how exact it is.

    Args:
        kernel: of ``sciinfer.gp.kernels`` (one input) or of ``sciinfer.gp.spatial``.
        noise: variance, a number (learned) or one fixed variance per point.
        mean: a number, or ``"constant"`` (learned).
        way: ``"auto"``, or the back-end by name.
        neighbours: of Vecchia's approximation.

    Raises:
        ConfigError: no such back-end.

    Example:
        >>> from sciinfer.gp.kernels import Matern32
        >>> gp = GP(Matern32(lengthscale=2.0), noise=0.1)
        >>> post = gp.condition([0.0, 1.0, 2.0], [1.0, 0.5, 0.0])
        >>> gp.explain().split(":")[0]
        'markov'
    """

    def __init__(
        self,
        kernel: nn.Module,
        noise: Any = 1.0,
        mean: float | str = 0.0,
        *,
        way: Way = "auto",
        neighbours: int = 20,
    ) -> None:
        super().__init__()
        if way not in ("auto", "markov", "dense", "vecchia"):
            raise ConfigError(f"unknown back-end {way!r}", variable="way", fix='"auto", "markov", "dense" or "vecchia"')
        if getattr(kernel, "outputs", 1) != 1:
            raise ConfigError("a kernel of several outputs needs times on a line", fix="use MarkovGP")
        self.kernel, self.way, self.neighbours = kernel, way, neighbours
        self.log_noise = log_parameter(noise, "noise") if isinstance(noise, (int, float)) else None
        self._noise, self._mean = noise, mean
        level = 0.0 if isinstance(mean, str) else float(mean)
        self.level = nn.Parameter(torch.tensor(level, dtype=torch.float64), requires_grad=mean == "constant")
        self._said: list[str] = []
        self.report: Any = None

    def log_likelihood(self, X: Any, y: Any) -> Tensor:
        """``log p(y)`` in nats, differentiable in all parameters.

        Args:
            X: times ``[N]`` or points ``[N, d]``. y: ``[N]``, NaN = missing.
        """
        return self._pick(X, y)[1].log_likelihood(_line(X), y)

    def fit(self, X: Any, y: Any, **options: Any) -> GP:
        """A fitted copy; ``report`` says how the search ended, :meth:`explain` also how exact it is at the end.

        Args:
            X, y: as for :meth:`log_likelihood`. options: the back-end's own.
        """
        gp = copy.deepcopy(self)
        _, backend = gp._pick(X, y)
        found = backend.fit(_line(X), y, **options)
        gp.kernel.load_state_dict(_kernel_of(found).state_dict())
        with torch.no_grad():
            if gp.log_noise is not None and found.log_noise is not None:
                gp.log_noise.copy_(found.log_noise.reshape(()))
            gp.level.copy_((found.level if isinstance(found, MarkovGP) else found.constant).reshape(()))
        gp.report = report = found.report
        gp.certify(X, y)
        if report is not None:
            gp._said.append(f"fit {report.verdict} at {report.objective:.4f} nats")
        return gp

    def condition(self, X: Any, y: Any) -> Any:
        """The posterior of ``f``: ``mean``, ``variance``, ``covariance`` and ``sample`` at any points."""
        return self._pick(X, y)[1].condition(_line(X), y)

    def certify(self, X: Any, y: Any) -> float:
        """How far the log-likelihood may be off, in nats; :meth:`explain` then says it.

        Markov: against the dense factor on up to 200 of the points (NaN where there is none: a kernel that is not
        stationary, or functionals instead of times). Vecchia: against twice the neighbours. Dense: 0.
        """
        taken, backend = self._pick(X, y)
        if taken == "dense":
            return 0.0
        if isinstance(backend, MarkovGP):
            if isinstance(X, Observed) or not backend.kernel.stationary:
                self._said.append("no dense form to compare with")
                return float("nan")
            error = self._against_dense(X, y, backend)
            self._said.append(f"on up to {_CHECKED} points within {error:.1e} nats of the dense log-likelihood")
            return error
        error = backend.certificate(X, y)
        self._said.append(f"twice the neighbours change the log-likelihood by {error:.1e} nats")
        return error

    def explain(self) -> str:
        """The back-end taken last, the reason and what is known of its error.

        Raises:
            StateError: nothing has been computed yet.
        """
        if not self._said:
            raise StateError("nothing has been computed yet", fix="call log_likelihood, fit or condition first")
        return "; ".join(self._said)

    def _pick(self, X: Any, y: Any) -> tuple[str, MarkovGP | VecchiaGP]:
        size, inputs = _size(X)
        taken, why = self._choose(size, inputs)
        truncation = self.kernel.truncation() if isinstance(self.kernel, Kernel) else 0.0
        exact = "exact up to round-off" if truncation == 0 else f"kernel approximated within {truncation:.1e} of k(0)"
        self._said = [f"{taken}: {why}", exact if taken != "vecchia" else f"{self.neighbours} nearest predecessors"]
        if taken == "markov":
            return taken, self._share(MarkovGP(self._time_kernel(), self._noise_now(), self._mean))
        from .spatial.vecchia import VecchiaGP

        near = max(size, 2) if taken == "dense" else self.neighbours
        return taken, self._share(VecchiaGP(self.kernel, self._noise_now(), self._mean, neighbours=near))  # pyright: ignore[reportArgumentType] - checked there

    def _choose(self, size: int, inputs: int) -> tuple[str, str]:
        if self.way != "auto":
            return self.way, "asked for"
        if inputs == 1 and isinstance(self.kernel, Kernel):
            return "markov", "inputs on a line and a kernel with a state-space form"
        shape = f"{size} points of {inputs} inputs"
        return ("dense", f"{shape}, few") if size <= DENSE else ("vecchia", f"{shape}, too many for a dense factor")

    def _time_kernel(self) -> Kernel:
        if isinstance(self.kernel, Kernel):
            return self.kernel
        raise ConfigError(
            f"{type(self.kernel).__name__} has no state-space form", variable="way", fix='way="dense" or "vecchia"'
        )

    def _noise_now(self) -> Any:
        return self._noise if self.log_noise is None else float(self.log_noise.detach().exp())

    def _share(self, backend: Any) -> Any:
        """The back-end computes with this object's own parameters, so that gradients reach them."""
        if self.log_noise is not None:
            _replace(backend, "log_noise", self.log_noise)
        name = "level" if isinstance(backend, MarkovGP) else "constant"
        _replace(backend, name, self.level)
        return backend

    @torch.no_grad()
    def _against_dense(self, X: Any, y: Any, markov: MarkovGP) -> float:
        from .spatial.vecchia import VecchiaGP

        time, values = np.asarray(X, dtype=float).reshape(-1), np.asarray(y, dtype=float)
        first = np.flatnonzero(np.isfinite(values))[:_CHECKED]
        noise = self._noise_now()
        noise = noise if self.log_noise is not None else np.asarray(noise, dtype=float)[first]
        few = (
            MarkovGP(markov.kernel, noise, self._mean),
            VecchiaGP(markov.kernel, noise, self._mean, neighbours=len(first) + 1),
        )
        values_of = [self._share(gp).log_likelihood(time[first], values[first]) for gp in few]
        return abs(float(values_of[0]) - float(values_of[1]))


def _replace(backend: nn.Module, name: str, parameter: nn.Parameter) -> None:
    setattr(backend, name, parameter)


def _kernel_of(backend: Any) -> nn.Module:
    if isinstance(backend, MarkovGP):
        return backend.kernel
    return getattr(backend.covariance, "kernel", backend.covariance)


def _line(X: Any) -> Any:
    """A column of points is a vector of times."""
    if isinstance(X, (Tensor, np.ndarray)) and X.ndim == 2 and X.shape[1] == 1:
        return X[:, 0]
    return X


def _size(X: Any) -> tuple[int, int]:
    if isinstance(X, Observed):
        return len(X.kind), 1
    shape = X.shape if isinstance(X, (Tensor, np.ndarray)) else np.asarray(X).shape
    return (shape[0] if shape else 1), (shape[1] if len(shape) > 1 else 1)
