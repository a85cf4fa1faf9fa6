"""What a time budget learns and grants. The clock is set by hand."""

from __future__ import annotations

import numpy as np
import pytest

from esam_rt.method.time_budget import CAUTION, FORGETTING, MOST_SIZES, NEWEST, Costs, TimeBudget

SIZE = (60, 80)


class Clock:
    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def known(**costs: float) -> Costs:
    learned = Costs()
    for step, value in costs.items():
        learned.learn(SIZE, step, value)  # type: ignore[arg-type]
    return learned


def test_costs_are_moving_averages_with_their_deviation() -> None:
    rng, costs = np.random.default_rng(0), Costs()
    values = rng.uniform(1, 2, 50)
    mean, deviation = float(values[0]), 0.0
    for value in values:
        costs.learn(SIZE, "encoder", float(value))
        error = value - mean
        mean, deviation = mean + NEWEST * error, deviation + NEWEST * (abs(error) - deviation)
    assert costs.expected(SIZE, "encoder") == pytest.approx(mean + CAUTION * deviation)
    assert 1 < mean < 2
    costs.forget_some()
    assert costs.expected(SIZE, "encoder") == pytest.approx(FORGETTING * (mean + CAUTION * deviation))


def test_a_small_batch_weighs_little() -> None:
    clock, costs = Clock(), known(prompt=1.0)
    with TimeBudget(costs, SIZE, batch_size=16, clock=clock).step("prompt", 2):
        clock.now_s += 6
    mean, deviation = 1 + NEWEST / 8 * 2, NEWEST / 8 * 2
    assert costs.expected(SIZE, "prompt") == pytest.approx(mean + CAUTION * deviation)


def test_a_new_size_costs_what_the_last_photo_did() -> None:
    costs = Costs()
    assert costs.expected(SIZE, "rest", unknown=7.0) == 7
    costs.learn((1, 1), "rest", 2.0)
    costs.learn((2, 2), "rest", 3.0)
    costs.learn((1, 1), "rest", 2.0)
    costs.learn((2, 2), "encoder", 9.0)
    assert costs.expected(SIZE, "rest") == 2
    assert costs.expected((2, 2), "rest") == 3


def test_few_sizes_are_remembered() -> None:
    costs = Costs()
    for side in range(10 * MOST_SIZES):
        costs.learn((side, side), "rest", side)
    assert costs.expected((10 * MOST_SIZES - 1,) * 2, "rest") == 10 * MOST_SIZES - 1
    assert costs.expected((3, 3), "rest") == 10 * MOST_SIZES - 1, "it was forgotten, and the last one counts"


@pytest.mark.parametrize(
    ("left_s", "decoded", "expected"),
    [
        (0.100, 0, 8),  # a whole batch: 8 · 2 ms, 5 masks of 3 ms, 10 ms
        (0.041, 0, 8),
        (0.040, 0, 7),
        (0.0351, 0, 5),
        (0.0349, 0, 4),
        (0.0151, 0, 1),  # one prompt, one mask, the rest
        (0.0149, 0, 0),
        (0.0349, 20, 4),  # masks of earlier prompts
        (-1.0, 0, 0),
    ],
)
def test_a_batch_leaves_time_for_the_rest(left_s: float, decoded: int, expected: int) -> None:
    clock = Clock()
    costs = known(encoder=0.02, prompt=0.002, drawing=0.003, drawings=5, rest=0.010)
    budget = TimeBudget(costs, SIZE, batch_size=8, deadline_s=10, clock=clock)
    budget.prompts_decoded = decoded
    clock.now_s += 10 - left_s
    assert budget.next_batch(100) == expected
    assert budget.next_batch(3) == min(3, expected)


@pytest.mark.parametrize(("deadline_s", "expected"), [(0.0351, True), (0.0349, False), (None, True)])
def test_the_encoder_runs_if_a_prompt_can_follow(deadline_s: float | None, expected: bool) -> None:
    costs = known(encoder=0.02, prompt=0.002, drawing=0.003, drawings=5, rest=0.010)
    assert TimeBudget(costs, SIZE, 8, deadline_s, Clock()).may_encode() is expected


def test_once_over_is_over() -> None:
    clock = Clock()
    budget = TimeBudget(known(prompt=1.0), SIZE, 8, 5.0, clock)
    assert budget.next_batch(8) == 2  # each prompt may need a drawing as long
    clock.now_s += 4.5
    assert budget.next_batch(8) == 0
    clock.now_s -= 4.5
    assert budget.next_batch(8) == 0


def test_without_a_deadline_all_is_granted_and_all_is_learned() -> None:
    clock, costs = Clock(), Costs()
    budget = TimeBudget(costs, SIZE, 8, clock=clock)
    assert budget.may_encode()
    with budget.step("encoder"):
        clock.now_s += 3
    assert budget.next_batch(1000) == 1000
    with budget.step("prompt", 1000):
        clock.now_s += 10
    clock.now_s += 0.5
    with budget.step("drawing", 20):
        clock.now_s += 1
    clock.now_s += 0.25
    budget.finish()
    steps = ("encoder", "prompt", "drawing", "drawings", "rest")
    assert [costs.expected(SIZE, step) for step in steps] == pytest.approx([3, 0.01, 0.05, 20, 0.75])
    assert budget.prompts_decoded == 1000


def test_a_photo_without_prompts_lowers_the_costs() -> None:
    """Otherwise one slow photo would forbid the encoder for ever."""
    costs = known(encoder=4.0)
    photos = 0
    while not (budget := TimeBudget(costs, SIZE, 8, 1.0, Clock())).may_encode():
        budget.finish()
        photos += 1
    assert photos == int(np.ceil(np.log(1 / 4) / np.log(FORGETTING)))


def test_a_step_that_fails_teaches_nothing() -> None:
    costs = Costs()
    budget = TimeBudget(costs, SIZE, 8, 1.0, Clock())
    with pytest.raises(ZeroDivisionError), budget.step("prompt", 4):
        raise ZeroDivisionError
    assert costs.expected(SIZE, "prompt", unknown=-1) == -1
    assert budget.prompts_decoded == 0
