"""``sciinfer solve``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, DataError, SchemaError, SciInferError
from ..extend.registry import registry
from . import files, parse
from .console import say, table, working
from .options import Draws, Out

if TYPE_CHECKING:
    import xarray as xr

EXAMPLES = (
    "sciinfer solve scan.nc --matrix A --noise 0.05 --prior-mean m --prior-cov C --out signal.nc",
    "sciinfer solve scan.nc --operator response.npz --noise sd --prior gaussian-field --prior-set amplitude=@a",
)
_ROWS = 10

File = Annotated[Path, typer.Argument(metavar="MEASUREMENT", help="File with the measurement (.nc .zarr .npz).")]
Measured = Annotated[
    str | None, typer.Option("--measurement", metavar="VAR", help="Its variable. Default: y, or the only one left.")
]
Matrix = Annotated[
    str | None, typer.Option("--matrix", metavar="VAR", help="The operator: a variable (datum, signal).")
]
OperatorName = Annotated[
    str | None,
    typer.Option("--operator", metavar="NAME|FILE", help="Or a registered operator, or a file with a matrix."),
]
OperatorSet = Annotated[
    list[str] | None,
    typer.Option("--operator-set", metavar="KEY=VALUE", help="Its options; =@VAR takes a variable of the file."),
]
Noise = Annotated[str, typer.Option("--noise", metavar="SD|VAR", help="Standard deviation: a number or a variable.")]
Prior = Annotated[str, typer.Option("--prior", metavar="NAME", help="A registered prior (sciinfer names priors).")]
PriorSet = Annotated[
    list[str] | None,
    typer.Option("--prior-set", metavar="KEY=VALUE", help="Its options; =@VAR takes a variable of the file."),
]
PriorMean = Annotated[str | None, typer.Option("--prior-mean", metavar="VAR", help="Mean of a gaussian prior.")]
PriorCov = Annotated[str | None, typer.Option("--prior-cov", metavar="VAR", help="Covariance of a gaussian prior.")]
Method = Annotated[str, typer.Option("--method", help="auto, or a registered method (sciinfer names methods).")]
SolveSeed = Annotated[int, typer.Option("--seed", help="Seed of the draws.")]


def solve(
    measurement: File,
    noise: Noise,
    variable: Measured = None,
    matrix: Matrix = None,
    operator: OperatorName = None,
    operator_set: OperatorSet = None,
    prior: Prior = "gaussian",
    prior_set: PriorSet = None,
    prior_mean: PriorMean = None,
    prior_cov: PriorCov = None,
    method: Method = "auto",
    draws: Draws = 64,
    seed: SolveSeed = 0,
    out: Out = None,
) -> None:
    """Posterior over the signal behind an indirect, noisy measurement. NaN means not measured.

    Linear operators with Gaussian noise and a Gaussian prior are solved exactly.
    """
    files.check_output(out)
    ds = _read(measurement)
    own = {"mean": prior_mean, "covariance": prior_cov}
    prior_options = parse.pairs(prior_set, "--prior-set") | {key: f"@{v}" for key, v in own.items() if v is not None}
    if prior == "gaussian":
        prior_options.setdefault("mean", 0.0)
    used = {matrix, noise, *(str(v).removeprefix("@") for v in prior_options.values())}
    y = _measurement(ds, variable, used)
    built, coords = _operator(ds, y, matrix, operator, parse.pairs(operator_set, "--operator-set"))
    from ..api import solve as run_solve

    distribution = _build("priors", prior, _resolved(ds, prior_options))
    with working("solving"):
        tree = run_solve(
            y, operator=built, noise=_noise(ds, noise), prior=distribution, method=method, draws=draws, seed=seed
        )
    tree = _labelled(tree, coords)
    _show(tree, draws)
    if out is not None:
        files.save(tree, out)


def _read(path: Path) -> xr.Dataset:
    import xarray as xr

    from ..labelled.io import read

    found = read(path)
    if not isinstance(found, xr.Dataset):
        raise SchemaError(f"{path} is a table; a measurement needs named arrays", fix="save it as .nc or .npz")
    return found


def _variable(ds: xr.Dataset, name: str) -> xr.DataArray:
    if name not in ds.variables:
        raise SchemaError(
            "there is no such variable in the file", variable=name, fix=f"it holds {', '.join(map(str, ds.variables))}"
        )
    return ds[name]


def _measurement(ds: xr.Dataset, name: str | None, used: set[Any]) -> xr.DataArray:
    if name is not None:
        return _variable(ds, name)
    left = [str(v) for v in ds.data_vars if v not in used]
    if "y" in left or len(left) == 1:
        return ds["y" if "y" in left else left[0]]
    raise SchemaError("which variable is the measurement", fix=f"--measurement, one of {', '.join(left) or 'none'}")


def _operator(
    ds: xr.Dataset, y: xr.DataArray, matrix: str | None, name: str | None, options: Mapping[str, Any]
) -> tuple[Any, Mapping[Any, Any]]:
    """The operator, and coordinates for the signal's dims."""
    if (matrix is None) == (name is None):
        raise ConfigError("give the operator as --matrix VAR or as --operator NAME, one of both", variable="--operator")
    if matrix is not None:
        return _matrix(_variable(ds, matrix))
    if name in registry().names("operators"):
        return _build("operators", str(name), _resolved(ds, options)), ds.coords
    if not Path(str(name)).exists():
        registry().entry("operators", str(name))  # raises, with the nearest names
    found = _read(Path(str(name)))
    square = [found[v] for v in found.data_vars if found[v].ndim == 2]
    if len(square) != 1:
        raise SchemaError(f"{name} holds {len(square)} variables of two dims", fix="give a file with just one matrix")
    return _matrix(square[0])


def _matrix(array: xr.DataArray) -> tuple[Any, Mapping[Any, Any]]:
    from ..operators import Matrix as Operator
    from ..operators.base import Spec

    if array.ndim != 2:
        raise DataError(
            f"a matrix has two dims, not {array.ndim}", variable=str(array.name), fix="dims (datum, signal)"
        )
    datum, signal = (str(dim) for dim in array.dims)
    domain, image = Spec((signal,), (array.sizes[signal],)), Spec((datum,), (array.sizes[datum],))
    return Operator(array.values, domain=domain, range=image), array.coords


def _resolved(ds: xr.Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with ``@VAR`` replaced by the values of that variable."""
    named = {key: text[1:] for key, text in options.items() if isinstance(text, str) and text.startswith("@")}
    return {**options, **{key: _variable(ds, name).values for key, name in named.items()}}


def _build(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    target = registry().get(kind, name)
    try:
        return target(**options)
    except SciInferError:
        raise
    except TypeError as err:  # a missing or an unknown option
        known = registry().entry(kind, name).options
        listed = "; ".join(f"{key}: {text}" for key, text in known.items()) or "none"
        option = f"--{kind.removesuffix('s')}-set"
        what = str(err).partition("() ")[2] or str(err)
        raise ConfigError(f"{name!r} cannot be built: {what}", variable=option, fix=f"it takes {listed}") from err


def _noise(ds: xr.Dataset, text: str) -> Any:
    number = parse.value(text)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return float(number)
    return _variable(ds, text).values


def _labelled(tree: xr.DataTree, coords: Mapping[Any, Any]) -> xr.DataTree:
    """The signal's own coordinates, where the operator came with some."""
    for group in ("posterior", "sample_stats"):
        ds = tree[group].to_dataset()
        fitting = {name: c for name, c in coords.items() if set(c.dims) <= set(ds.dims) and name not in ds.variables}
        tree[group] = ds.assign_coords(fitting)
    return tree


def _show(tree: xr.DataTree, draws: int) -> None:
    import numpy as np

    attrs, stats = tree.attrs, tree["sample_stats"].to_dataset()
    say(f"method {attrs['method']}: {attrs['reason']}")
    if "log_evidence" in stats:
        say(f"log evidence {float(stats['log_evidence']):.6g}")
    mean, sd = stats["mean"].values.ravel(), stats["sd"].values.ravel()
    chosen = np.unique(np.linspace(0, mean.size - 1, min(_ROWS, mean.size)).round().astype(int))
    places = [np.unravel_index(i, stats["mean"].shape) for i in chosen]
    dims = ", ".join(map(str, stats["mean"].dims))
    say(f"{draws} draws of a signal of {mean.size} entries; mean and standard deviation:")
    rows = [
        [", ".join(str(int(k)) for k in place), f"{mean[i]:.5g}", f"{sd[i]:.5g}"]
        for i, place in zip(chosen, places, strict=True)
    ]
    table([dims or "entry", "mean", "sd"], rows, indent="  ")
