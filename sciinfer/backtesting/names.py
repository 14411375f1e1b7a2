"""From what the caller names to models, their settings and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnostics import BASELINES
from ..errors import ConfigError, NameNotFoundError
from ..extend import registry
from ..fitted import Fitted


def named_models(model: Any) -> dict[str, str | Fitted]:
    """Label -> registered name or fitted model.

    Raises:
        ConfigError: neither, none, or two of the same label.
    """
    if isinstance(model, Mapping):
        found = [(str(label), one) for label, one in model.items()]
    else:
        several = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
        found = [(one.name if isinstance(one, Fitted) else one, one) for one in several]
    if not found:
        raise ConfigError("there is no model to test", variable="model", fix='model="latent-sde"')
    for label, one in found:
        if not isinstance(one, str | Fitted):
            raise ConfigError(
                f"a model is a registered name or a fitted one, got {type(one).__name__}",
                variable="model",
                index=label,
                fix="pass what si.fit returns, or a name of si.names('models')",
            )
        if isinstance(one, str):
            registry().entry("models", one)
    labels = [label for label, _ in found]
    twice = sorted({str(label) for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(
            f"two models are called {twice[0]!r}", variable="model", fix="pass a mapping {label: model} instead"
        )
    return dict(found)


def per_label(settings: Mapping[str, Any] | None, labels: Sequence[str], name: str) -> dict[str, dict[str, Any]]:
    """Options of each model: one mapping for a single one, else by label.

    Raises:
        ConfigError: options that belong to no model.
    """
    if not settings:
        return {}
    if set(settings) <= set(labels) and all(isinstance(value, Mapping) for value in settings.values()):
        return {label: dict(value) for label, value in settings.items()}
    if len(labels) == 1:
        return {labels[0]: dict(settings)}
    stray = next((key for key in settings if key not in labels), next(iter(settings)))
    raise ConfigError(
        f"{name} names {stray!r}, but there are several models: {', '.join(labels)}",
        variable=name,
        fix=f"{name}={{{labels[0]!r}: {{...}}}}",
    )


def named_baselines(baselines: Sequence[str] | None, season: float | None) -> list[str]:
    """Names of the baselines; None: all that need no model (the seasonal one only with a season).

    Raises:
        NameNotFoundError: neither a baseline nor a registered model. ConfigError: a seasonal one without a season.
    """
    if baselines is None:
        return [name for name in BASELINES if season is not None or name != "seasonal_naive_drift"]
    chosen = [baselines] if isinstance(baselines, str) else list(dict.fromkeys(baselines))
    for name in chosen:
        if name not in BASELINES:
            try:
                registry().entry("models", name)
            except NameNotFoundError as err:
                raise NameNotFoundError(
                    f"no baseline is called {name!r}", fix=f"one of {', '.join(BASELINES)}, or a registered model"
                ) from err
        if name == "seasonal_naive_drift" and season is None:
            raise ConfigError(f"baseline {name!r} needs a season", variable="season", fix='season=24 or "365.25D"')
    return chosen
