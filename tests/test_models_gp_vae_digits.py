"""GP-VAE against its peers: dense kernel matrices, and other ways to fill in turning digits."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
pytest.importorskip("sklearn", reason="the digits ship inside scikit-learn")
bench = importlib.import_module("benchmarks.gp_vae")


def test_the_dense_peer_takes_the_same_step():
    ours, peer = bench.Step(*bench.case(30)), bench.Step(bench.dense(bench.case(30)[0]), bench.case(30)[1])
    assert ours() == pytest.approx(peer(), rel=1e-9)
    pairs = zip(ours.model.named_parameters(), peer.model.named_parameters(), strict=True)
    for (name, p), (_, other) in pairs:
        if p.requires_grad:
            torch.testing.assert_close(p.grad, other.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_the_fills_know_what_was_seen():
    film = bench.films(0, 4, 2)
    filled, seen = bench.fills(film), film.test["y"].transpose(*bench.DIMS).values
    there = ~np.isnan(seen)
    np.testing.assert_array_equal(filled["last"][there], seen[there])
    np.testing.assert_array_equal(film.truth[there], seen[there])
    assert not np.isnan(filled["last"]).any()
    assert abs(1 - there.mean() - 0.6) < 0.05


@pytest.mark.slow
def test_missing_pixels_are_filled_better_than_by_peers_and_with_honest_intervals():
    scores = bench.digits(0)
    assert scores["gp-vae"] < 0.85 * scores["white"]
    assert scores["gp-vae"] < 0.7 * min(scores["mean"], scores["last"])
    assert 0.87 <= scores["coverage"] <= 0.93


@pytest.mark.slow
def test_black_and_white_pixels_are_foretold_better_than_by_peers():
    scores = bench.binary(0)
    assert scores["gp-vae"] < 0.9 * scores["white"]
    assert scores["gp-vae"] < 0.8 * scores["mean"]
