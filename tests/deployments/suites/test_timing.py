"""The statistics of the benchmark suite: when measuring starts to count, when it stops, what an interval is worth."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable

import pytest

from tests.deployments.suites.sources import load

timing = load("benchmark/timing.py")


class Machine:
    """A machine whose time passes only in samples: `left` and `right` say what the n-th sample of a side takes."""

    def __init__(self, left: Callable[[int], float], right: Callable[[int], float]) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.sides = {"left": left, "right": right}
        self.counts = {"left": 0, "right": 0}

    def sample(self, side: str) -> Callable[[], float]:
        def take() -> float:
            seconds = self.sides[side](self.counts[side])
            self.counts[side] += 1
            self.order.append(side)
            self.now += seconds
            return seconds

        return take

    def measure(self, budget_seconds: float, seed: int = 7) -> timing.Pairs:  # type: ignore[name-defined]
        return timing.measure(
            self.sample("left"), self.sample("right"), budget_seconds=budget_seconds, seed=seed, clock=lambda: self.now
        )


def noisy(seconds: float, noise: random.Random, spread: float) -> Callable[[int], float]:
    """A side with a long right tail, as timings have it."""
    return lambda _: seconds * noise.lognormvariate(0.0, spread)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (9, 2), (17, 5), (50, 18), (100, 40)])
def test_the_interval_is_the_tabled_order_statistic(n: int, rank: int) -> None:
    """Ranks for 95 % from the binomial distribution, as printed in tables of the sign test."""
    shuffled = [float(i) for i in range(1, n + 1)]
    random.Random(1).shuffle(shuffled)
    found = timing.estimate(shuffled)
    assert (found.low, found.high) == (rank, n + 1 - rank)
    assert found.value == statistics.median(shuffled)


def test_fewer_than_six_samples_have_no_interval() -> None:
    found = timing.estimate([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.value, found.low, found.high) == (3.0, None, None)
    assert found.width == float("inf")


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    draw = random.Random(20261)
    rounds, covered = 2000, 0
    for _ in range(rounds):
        found = timing.estimate([draw.lognormvariate(0.0, 0.5) for _ in range(25)])
        covered += found.low <= 1.0 <= found.high
    assert 0.945 <= covered / rounds <= 0.985  # 25 samples give 95.7 %; four standard errors are 1.8 points


def test_one_outlier_does_not_move_the_interval() -> None:
    samples = [1.0 + i / 1000 for i in range(30)]
    assert timing.estimate([*samples[:-1], 1e6]).high == timing.estimate(samples).high


def test_warm_up_is_the_slow_start_and_nothing_else() -> None:
    steady = [1.0 + 0.01 * (i % 3) for i in range(40)]
    assert timing.warm_after(steady) == 0
    start = timing.warm_after([10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.8, 1.6, 1.4, *steady])
    assert start is not None
    assert 5 <= start <= 12


def test_warm_up_is_not_over_while_times_still_fall() -> None:
    assert timing.warm_after([0.95**i for i in range(60)]) is None


def test_a_measurement_drops_the_slow_start_of_either_side() -> None:
    noise = random.Random(3)
    left, right = noisy(0.010, noise, 0.01), noisy(0.005, noise, 0.01)
    machine = Machine(left, lambda n: 0.5 if n < 8 else right(n))
    pairs = machine.measure(budget_seconds=60)
    assert pairs.warm
    assert pairs.dropped >= 8 - timing.WARM_WINDOW // 2
    assert len(pairs.right) == machine.counts["right"] - pairs.dropped
    assert sum(seconds == 0.5 for seconds in pairs.right) == 8 - pairs.dropped
    assert pairs.ratio.value == pytest.approx(2.0, rel=0.02)


def test_a_quiet_machine_is_measured_only_until_the_interval_is_narrow() -> None:
    noise = random.Random(4)
    machine = Machine(noisy(0.010, noise, 0.02), noisy(0.008, noise, 0.02))
    pairs = machine.measure(budget_seconds=60)
    assert pairs.reason == "narrow"
    assert pairs.ratio.width < timing.TARGET_WIDTH
    assert machine.now < 6
    assert len(pairs.left) >= timing.MINIMUM_PAIRS


def test_a_noisy_machine_is_measured_until_the_budget_is_spent_and_one_pair_more_at_most() -> None:
    noise = random.Random(5)
    machine = Machine(noisy(0.010, noise, 1.0), noisy(0.010, noise, 1.0))
    pairs = machine.measure(budget_seconds=3)
    assert pairs.reason == "budget"
    assert pairs.ratio.width > timing.TARGET_WIDTH
    assert 3 <= machine.now < 3.5


def test_warm_up_takes_no_more_than_its_share_of_the_budget() -> None:
    def falling(n: int) -> float:
        return 0.2 * 0.95**n

    pairs = Machine(falling, falling).measure(budget_seconds=6)
    assert not pairs.warm
    dropped_seconds = sum(2 * falling(n) for n in range(pairs.dropped))
    assert 1.5 <= dropped_seconds < 1.5 + 2 * falling(0)
    assert len(pairs.left) > 1, "what is left of the budget is measured all the same"


def test_warm_up_takes_no_more_than_its_number_of_pairs() -> None:
    pairs = Machine(lambda n: 0.1 * 0.98**n, lambda n: 0.1 * 0.98**n).measure(budget_seconds=1000)
    assert not pairs.warm
    assert pairs.dropped == timing.WARM_PAIRS


def test_a_side_slower_than_the_whole_budget_is_still_measured_once() -> None:
    pairs = Machine(lambda _: 20.0, lambda _: 10.0).measure(budget_seconds=1)
    assert pairs.left == (20.0,)
    assert pairs.ratio == timing.Estimate(2.0, None, None)


def test_the_sides_take_turns_in_an_order_that_only_the_seed_decides() -> None:
    def order(seed: int) -> list[str]:
        machine = Machine(lambda _: 1.0, lambda _: 1.0)
        machine.measure(budget_seconds=200, seed=seed)
        return machine.order

    turns = order(1)
    assert turns == order(1) != order(2)
    first = turns[::2]
    assert all({a, b} == {"left", "right"} for a, b in zip(first, turns[1::2], strict=True))
    assert {"left", "right"} == set(first)


def test_a_machine_that_becomes_slow_halfway_does_not_change_the_ratio() -> None:
    """The reason for pairs: each side alone would be off by half of the slowdown, in either direction."""
    noise = random.Random(6)

    def slowed(seconds: float) -> Callable[[int], float]:
        return lambda n: seconds * (1.0 if n < 100 else 2.0) * noise.lognormvariate(0.0, 0.3)

    pairs = Machine(slowed(0.012), slowed(0.010)).measure(budget_seconds=10)
    assert len(pairs.left) > 150
    assert pairs.ratio.value == pytest.approx(1.2, rel=0.06)


def test_the_garbage_collector_runs_again_after_a_measurement_that_failed() -> None:
    def fails() -> float:
        raise RuntimeError("the kernel died")

    with pytest.raises(RuntimeError, match="the kernel died"):
        timing.measure(fails, fails, budget_seconds=1, seed=1)
    assert gc.isenabled()


def test_kept_samples_are_at_most_two_hundred_in_order_of_time() -> None:
    assert timing.thinned([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    kept = timing.thinned([float(i) for i in range(1001)])
    assert len(kept) == 200
    assert kept == sorted(kept)
    assert kept[0] == 0.0
    assert kept[-1] > 990
