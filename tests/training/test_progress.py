from __future__ import annotations

import pytest

from training.progress import SAVING_S, STEP_PER_REFERENCE, Progress


def heard(*events: dict[str, object], batch_pairs: int = 8) -> Progress:
    progress = Progress(batch_pairs=batch_pairs)
    for event in events:
        progress.hear(event)
    return progress


def stage(name: str, done: int, of: int, *, at: float) -> dict[str, object]:
    return {"event": "stage", "stage": name, "done": done, "of": of, "at": at}


def step(number: int, *, at: float, seconds: float, of: int = 10) -> dict[str, object]:
    return {"event": "step", "step": number, "of": of, "at": at, "seconds": seconds, "loss": 0.5}


START = {"event": "start", "at": 100.0, "steps": 10, "resumed_from": 0}


class TestProgress:
    def test_promises_nothing_before_it_has_measured_anything(self) -> None:
        progress = heard(stage("loading", 0, 1, at=100.0), START)

        assert progress.seconds_left is None
        assert 0 <= progress.fraction <= 0.05

    def test_guesses_the_steps_from_the_reference_pass(self) -> None:
        # One completion a second: a step of 8 pairs is 16 completions, forward and backward.
        cold = [stage("reference", 0, 48, at=102.0), stage("reference", 4, 48, at=110.0)]
        assert heard(START, *cold).seconds_left is None

        progress = heard(START, *cold, stage("reference", 8, 48, at=114.0))

        assert progress.step_s == pytest.approx(48)
        assert progress.seconds_left == pytest.approx(40 + 10 * 48 + SAVING_S)

    def test_takes_the_mean_of_the_last_ten_steps(self) -> None:
        slow = step(1, at=110.0, seconds=100.0, of=20)
        rest = [step(number, at=110.0 + number, seconds=2.0, of=20) for number in range(2, 12)]

        progress = heard(START | {"steps": 20}, slow, *rest)

        assert progress.seconds_left == pytest.approx(9 * 2.0 + SAVING_S)

    def test_goes_on_from_the_step_of_the_checkpoint(self) -> None:
        progress = heard(START | {"resumed_from": 7}, step(8, at=103.0, seconds=1.0))

        assert progress.seconds_left == pytest.approx(2 + SAVING_S)

    def test_is_never_whole_before_the_end(self) -> None:
        progress = heard(
            START, *[step(n, at=100.0 + n, seconds=1.0) for n in range(1, 11)],
            stage("saving", 0, 1, at=1000.0),
        )  # fmt: skip

        assert 0.9 < progress.fraction <= 0.99

    def test_hands_out_each_number_once(self) -> None:
        progress = heard(START, step(1, at=101.0, seconds=1.0))

        assert progress.metrics_taken() == [(1, "loss", 0.5), (1, "seconds", 1.0)]
        assert progress.metrics_taken() == []

    def test_keeps_the_holdouts_numbers_apart(self) -> None:
        progress = heard(START, {"event": "eval", "step": 0, "at": 101.0, "accuracy": 0.5})

        assert progress.metrics_taken() == [(0, "holdout_accuracy", 0.5)]

    def test_believes_the_whole_reference_pass_rather_than_its_pieces(self) -> None:
        pieces = [stage("reference", done, 48, at=100.0 + done) for done in (4, 8, 48)]
        whole = {
            "event": "reference",
            "completions": 60,
            "scored": 48,
            "tokens": 9000,
            "seconds": 96.0,
        }

        progress = heard(START, *pieces, whole)

        # Two seconds a completion; a step has 16 of them.
        assert progress.step_s == pytest.approx(2 * 16 * STEP_PER_REFERENCE)

    def test_learns_nothing_from_a_pass_that_scored_nothing(self) -> None:
        stored = {"event": "reference", "completions": 60, "scored": 0, "tokens": 0, "seconds": 0.1}

        assert heard(START, stored).seconds_left is None

    def test_counts_the_held_out_triples_before_and_after(self) -> None:
        # 8 triples forward and backward in 24 s: one forward in 1 s.
        start = START | {"holdout": 30}
        trained = step(1, at=101.0, seconds=24.0)
        before = stage("evaluating", 10, 30, at=99.0)

        assert heard(start, trained).seconds_left == pytest.approx(9 * 24 + SAVING_S + 30)
        reference = {"event": "reference", "scored": 10, "seconds": 5.0}
        early = heard(start, reference, before)
        assert early.seconds_left == pytest.approx(10 * 24 + SAVING_S + 2 * 30 - 10)
        last = [step(n, at=101.0, seconds=24.0) for n in range(1, 11)]
        late = heard(start, *last, stage("evaluating", 20, 30, at=400.0))
        assert late.seconds_left == pytest.approx(SAVING_S + 10)
        done = heard(start, *last, {"event": "eval", "step": 10, "pairs": 30})
        assert done.seconds_left == pytest.approx(SAVING_S)

    def test_passes_over_what_it_does_not_know(self) -> None:
        progress = heard(START, {"event": "gossip"}, {"at": 101.0})

        assert progress.seconds_left is None
