"""Loss curve, convergence, preference figures, memory accounting."""

from __future__ import annotations

import math
import random

import pytest

from tasks.tune.curve import POINTS, convergence, thin
from tasks.tune.memory import peak_allocations, tensor_bytes
from tasks.tune.score import mean_loss, preference_scores


def falling(steps: int, rate: float, noise: float) -> list[float]:
    draw = random.Random(1)
    return [1 + math.exp(-rate * i / steps) + draw.gauss(0, noise) for i in range(steps)]


def test_a_loss_that_falls_and_flattens_has_converged() -> None:
    result = convergence(falling(480, rate=12, noise=0.05))
    assert result["converged"] is True
    assert result["fall"] == pytest.approx(0.52, abs=0.1)


@pytest.mark.parametrize("losses", [falling(480, rate=0.5, noise=0.01), [2.0 + i / 480 for i in range(480)]])
def test_a_loss_that_still_falls_or_rises_has_not(losses: list[float]) -> None:
    assert convergence(losses)["converged"] is False


def test_noise_around_a_constant_has_not_converged() -> None:
    assert convergence([2 + random.Random(i).gauss(0, 0.1) for i in range(480)])["converged"] is False


def test_a_short_run_does_not_tell() -> None:
    assert convergence([3.0, 2.0, 1.0])["converged"] is None


@pytest.mark.parametrize("steps", [1, 49, 50, 51, 480])
def test_the_thinned_curve_keeps_the_mean_and_the_last_step(steps: int) -> None:
    losses = [float(i) for i in range(steps)]
    curve = thin(losses)
    assert len(curve) <= POINTS and curve[-1][0] == steps
    widths = [step - before for (step, _), before in zip(curve, [0, *(step for step, _ in curve)], strict=False)]
    assert sum(width * mean for width, (_, mean) in zip(widths, curve, strict=True)) == pytest.approx(sum(losses))


def test_preference_figures_by_hand() -> None:
    policy, reference = [-10.0, -12.0, -20.0, -11.0], [-11.0, -12.0, -19.0, -13.0]
    scores = preference_scores(policy, reference, beta=0.1)
    # margins: 0.1 · (1 − −1) = 0.2 and 0.1 · (0 − 2) = −0.2
    assert scores["pairs"] == 2 and scores["accuracy"] == 0.5
    assert scores["margin"] == pytest.approx(0)
    assert scores["loss_before"] == pytest.approx(0.693147, abs=1e-6)
    assert scores["loss_after"] == pytest.approx((math.log(1 + math.exp(-0.2)) + math.log(1 + math.exp(0.2))) / 2)


def test_no_rows_give_no_figure() -> None:
    assert mean_loss([], []) is None
    assert preference_scores([], [], 0.1)["accuracy"] is None


def test_the_mean_loss_is_over_tokens() -> None:
    rows = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [1, 2], "labels": [-100, 2]}]
    assert mean_loss([-4.0, -5.0], rows) == pytest.approx(3.0)


def test_peak_of_allocations_counts_what_lives_at_once() -> None:
    import torch

    megabyte = 262_144  # floats

    def work() -> None:
        kept = torch.ones(8 * megabyte)
        passing = torch.ones(16 * megabyte)
        del passing
        later = torch.ones(4 * megabyte)
        assert kept.numel() + later.numel() > 0

    peak = peak_allocations(work)
    assert peak is not None
    assert 24 * 2**20 <= peak < 25 * 2**20


def test_nothing_allocated_is_not_zero_but_unknown() -> None:
    assert peak_allocations(lambda: None) is None


def test_views_share_their_storage() -> None:
    import torch

    tensor = torch.ones(1000)
    assert tensor_bytes([tensor, tensor[:10], tensor.view(10, 100), None]) == 4000
