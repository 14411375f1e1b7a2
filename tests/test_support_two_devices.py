"""The stand-in for a second device sees what CUDA would refuse, and nothing else."""

from __future__ import annotations

import pytest
import torch
from support.two_devices import TwoDevices, left_behind
from torch import nn


def test_a_tensor_made_without_a_device_is_caught() -> None:
    x = torch.ones(3)
    with TwoDevices(x), pytest.raises(AssertionError, match="two devices"):
        _ = (x * 2) @ torch.zeros(3)
    assert not hasattr(x, "_lives")


def test_devices_that_are_named_or_inherited_pass() -> None:
    x, layer = torch.ones(3), nn.Linear(3, 2)
    with TwoDevices(x, layer):
        y = layer(x) + torch.zeros(2, device=x.device) + x.new_ones(2) + torch.zeros_like(x[:2]) + torch.tensor(1.0)
        y = y + torch.ones(2).to(x) + torch.stack([torch.as_tensor(x)[:2], x[1:]]).sum(0)
        y = y[torch.arange(2)]
    assert y.shape == (2,)


def test_what_a_module_forgets_is_named() -> None:
    layer = nn.Linear(2, 2)
    layer.table = torch.ones(2)
    assert left_behind(nn.Sequential(layer)) == ["0.table"]
