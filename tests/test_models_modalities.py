"""Several variables, each with a likelihood of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from sciinfer.api import _scaling, _support
from sciinfer.errors import ConfigError, DataError, ShapeError
from sciinfer.labelled import check_support, infer_schema
from sciinfer.likelihoods import Gaussian, JointLikelihood, Poisson
from sciinfer.models.modalities import build_likelihood, find_modalities

CHOICE = {"spikes": "poisson"}


def data() -> xr.Dataset:
    spikes = np.array([[0.0, 2.0], [1.0, np.nan], [3.0, 0.0]])
    return xr.Dataset(
        {"angle": ("t", [10.0, 20.0, 60.0]), "spikes": (("t", "unit"), spikes)}, coords={"t": [0.0, 1.0, 2.5]}
    )


def test_counts_are_kept_and_real_values_are_scaled() -> None:
    support = _support({"likelihood": CHOICE})
    schema = infer_schema(data(), **_scaling(support))
    check_support(data(), schema, support)
    scales = {channel.label or channel.variable: (channel.shift, channel.scale) for channel in schema.channels}
    assert scales["spikes[unit=0]"] == scales["spikes[unit=1]"] == (0.0, 1.0)
    assert scales["angle"][0] == 30.0


def test_a_count_that_is_not_whole_is_refused_by_name() -> None:
    bad = data()
    bad["spikes"] = bad["spikes"] + 0.5
    schema = infer_schema(bad)
    with pytest.raises(DataError) as caught:
        check_support(bad, schema, {"spikes": "count"})
    assert caught.value.variable == "spikes"


def test_modalities_follow_the_order_of_channels() -> None:
    found = find_modalities(infer_schema(data()), CHOICE)
    assert [(m.name, m.start, m.stop, m.likelihood) for m in found] == [
        ("angle", 0, 1, "gaussian"),
        ("spikes", 1, 3, "poisson"),
    ]
    with pytest.raises(ConfigError):
        find_modalities(infer_schema(data()), {"spike": "poisson"})


def test_joint_likelihood_is_the_sum_of_its_parts() -> None:
    joint = build_likelihood(find_modalities(infer_schema(data()), CHOICE), noise=0.5)
    assert isinstance(joint, JointLikelihood)
    y = torch.tensor([[0.3, 2.0, float("nan")]], dtype=torch.float64)
    mask, eta = ~y.isnan(), torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    parts = [Gaussian(1, noise=0.5), Poisson(2)]
    blocks = [slice(0, 1), slice(1, 3)]
    direct = sum(part.log_prob(y[:, b], eta[:, b], mask[:, b]) for part, b in zip(parts, blocks, strict=True))
    torch.testing.assert_close(joint.log_prob(y, eta, mask), direct)
    mean, variance = eta, torch.full_like(eta, 0.2)
    expected = sum(
        part.expected_log_prob(y[:, b], mean[:, b], variance[:, b], mask[:, b])
        for part, b in zip(parts, blocks, strict=True)
    )
    torch.testing.assert_close(joint.expected_log_prob(y, mean, variance, mask), expected)
    with pytest.raises(ShapeError):
        joint.mean(torch.zeros(2, dtype=torch.float64))
