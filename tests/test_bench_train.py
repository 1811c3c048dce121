"""The benchmark of training measures for half an hour; what it computes of that is tested here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import bench_train
from benchmarks import train_figures as figures
from benchmarks.train_figures import Compared, OwnRun, Run

SIZES = {"body": 1000, "head": 100, "lora": 10}


def pair(prompt: int, chosen: int, rejected: int, *, number: int = 0) -> figures.Pair:
    """Return a pair of so many tokens; pairs of one number and length share a prompt."""
    return {
        "prompt_ids": [number] * prompt,
        "chosen_ids": [1] * chosen,
        "rejected_ids": [2] * rejected,
    }


def own(seconds: float, **changes: object) -> OwnRun:
    run = OwnRun(
        seconds=seconds, losses=(0.7, 0.6), peak_mb=1000.0, step_seconds=2.0, step_tokens=100,
        reference_seconds=0.0, reference_tokens=0, saved=0.4,
    )  # fmt: skip
    return replace(run, **changes)


@pytest.fixture
def compared() -> Compared:
    return Compared(
        ratio=3.0,
        pairs=4,
        default=Run(20.0, (0.7, 0.60001), 8000.0),
        tuned=Run(10.0, (0.7, 0.6), 4000.0),
        first=tuple(
            own(seconds, reference_seconds=seconds - 2, reference_tokens=100)
            for seconds in (3.0, 4.0, 5.0)
        ),
        cached=(own(2.0), own(2.5), own(2.0)),
        scored=figures.Scored(steps=10, reference=5),
    )


def test_selects_pairs_near_the_ratio_and_keeps_prompts_together() -> None:
    pairs = [pair(30, 10 + n % 3, 10, number=n // 3) for n in range(12)]
    far = [pair(10, 40, 40 + n, number=100 + n) for n in range(8)]

    found = figures.select([*far, *pairs], ratio=3, count=6, tokens=1000)

    assert all(figures.is_near(each, 3) for each in found)
    prompts = [each["prompt_ids"] for each in found]
    # Two of each prompt, though there are three.
    assert prompts[::2] == prompts[1::2]
    assert len({tuple(prompt) for prompt in prompts}) == 3
    # The order of the file does not matter.
    assert figures.select([*reversed(pairs), *far], ratio=3, count=6, tokens=1000) == found


def test_spreads_over_all_sizes_but_leaves_out_the_largest_when_time_is_short() -> None:
    pairs = [pair(3 * n, n, n, number=n) for n in range(10, 50)]

    def answers(tokens: float) -> list[int]:
        found = figures.select(pairs, ratio=3, count=4, tokens=tokens)
        return [len(each["chosen_ids"]) for each in found]

    assert answers(1000) == [15, 25, 35, 45]
    short = answers(160)
    assert short[0] < 15
    assert 18 < sum(short) / 4 <= 20


def test_widens_when_too_few_are_near() -> None:
    pairs = [pair(30, 10, 10), pair(60, 10, 10, number=1)]

    found = figures.select(pairs, ratio=3, count=2, tokens=1000)

    assert [figures.is_near(each, 3) for each in found] == [True, False]


def test_counts_equal_pairs_once_and_refuses_when_there_are_too_few() -> None:
    pairs = [pair(30, 10, 10), pair(30, 10, 10), pair(30, 10, 11), pair(30, 10, 12)]

    with pytest.raises(ValueError, match="has 3 different ones of 1 prompts"):
        figures.select(pairs, ratio=3, count=3, tokens=1000)


def test_the_headline_gets_twice_the_tokens() -> None:
    assert figures.budgets([1, 2.9, 6], pairs=4, tokens=1600) == {1: 100, 2.9: 200, 6: 100}


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 1.0), (1.0, 4 / 3), (3.0, 1.6), (6.0, 1.75)])
def test_bound_of_sharing(ratio: float, expected: float) -> None:
    assert figures.bound(ratio) == pytest.approx(expected)


def test_counts_products_by_hand() -> None:
    # Body: forward and back to the input, 2 each; the adapter's gradients; the head at scored outputs only.
    assert (
        figures.flops_trained(SIZES, tokens=7, outputs=3) == 7 * (4 * 1000 + 4 * 10) + 3 * 4 * 100
    )
    assert figures.flops_read(SIZES, tokens=7, outputs=3) == 7 * 2 * 1000 + 3 * 2 * 100


def test_equal_completions_of_a_step_are_scored_once() -> None:
    first, second = pair(3, 5, 2), pair(3, 5, 4)

    assert figures.scored([[first, second]]) == figures.Scored(steps=11, reference=11)
    assert figures.scored([[first], [second]]) == figures.Scored(steps=16, reference=11)


def test_roofline_is_work_over_time(compared: Compared) -> None:
    work = figures.flops_trained(SIZES, tokens=100, outputs=10)
    reading = figures.flops_read(SIZES, tokens=100, outputs=5)

    steps, whole = figures.roofline(compared, SIZES, gflops=1e-3)

    assert steps == pytest.approx(work / 2.0 / 1e6)
    assert whole == pytest.approx((work + reading) / 4.0 / 1e6)


def test_last_line_and_what_is_missed(compared: Compared) -> None:
    found = figures.figures(compared, 0.7)

    assert figures.last_line(found) == (
        "bench-train: vs_default=5.00 vs_default_cached=10.00 vs_tuned=2.50 memory=0.12 memory_tuned=0.25 "
        "curve=1.0e-05 roofline=0.70"
    )
    assert figures.missed(found | {"curve": 1e-6}) == []
    assert figures.missed(found | {"curve": 1e-6, "vs_tuned": 2.0, "memory": 0.3}) == [
        "vs_tuned is 2, to be at least 2.3",
        "memory is 0.3, to be at most 0.2",
    ]


def test_runs_of_different_length_are_not_compared(compared: Compared) -> None:
    with pytest.raises(ValueError, match="argument"):
        figures.differences(compared.default, [own(1.0, losses=(0.7,))])


def test_reads_a_round_from_its_events() -> None:
    events = [
        {"event": "reference", "completions": 4, "scored": 4, "tokens": 70, "seconds": 1.5},
        {"event": "step", "loss": 0.7, "tokens": 60, "tokens_saved": 0.4, "seconds": 2.0},
        {"event": "step", "loss": 0.6, "tokens": 150, "tokens_saved": 0.25, "seconds": 3.0},
        {"event": "end", "outcome": "done", "seconds": 9.0, "peak_mb": 900.0},
    ]

    run = bench_train.own_read("".join(json.dumps(each) + "\n" for each in events))

    assert run == OwnRun(
        seconds=6.5, losses=(0.7, 0.6), peak_mb=900.0, step_seconds=5.0, step_tokens=210,
        reference_seconds=1.5, reference_tokens=70, saved=pytest.approx(0.3),
    )  # fmt: skip


def test_made_up_pairs_are_always_the_same_and_of_the_sizes_asked_for() -> None:
    made = list(figures.generated({1: 200, 3: 400}, pairs=16))

    assert made == list(figures.generated({1: 200, 3: 400}, pairs=16))
    assert len(made) == 2 * 16 * 2
    assert any(len(each["prompt"]) > 1 for each in made)
    assert all(each["chosen"] != each["rejected"] for each in made)
    for asked, part in ((200, made[:32]), (400, made[32:])):
        words = [
            sum(len(turn["content"].split()) for turn in [*each["prompt"], *each["prompt"], *each["chosen"], *each["rejected"]])
            for each in part
        ]  # fmt: skip
        # The chat template adds the rest.
        assert asked - 80 < sum(words) / len(words) < asked
