from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from annotate.models import Split, Verdict
from tests import factories
from tests.training.conftest import judge
from training import actions, numbers
from training.models import Round, RoundAttempt, RoundMetric
from training.progress import SUMMARY, Progress
from training.runner import Events

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(client):
    client.force_login(factories.UserFactory(is_staff=True, username="ada"))
    return client


def start(model) -> Round:
    judge(model, count=2)
    return actions.round_start(model=model, by=None, now=timezone.now())


#: The trainer's names of its numbers -> the page's.
NUMBER_TITLES = {number.key: number.title for number in numbers.NUMBERS}


def said(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def events_write(path: Path) -> dict[str, Any]:
    """Write what a trainer says of two steps and two evaluations; return the last step's and both of these."""
    step: dict[str, Any] = {
        "event": "step", "of": 2, "epoch": 1, "at": 110.0,
        "loss": 1.0421, "loss_preference": 0.9011, "loss_nll": 0.705, "margin": 0.6123, "margin_p10": -0.31,
        "margin_p90": 1.7, "accuracy": 0.875, "calibration": 0.1402, "drift_chosen": -1.25,
        "drift_rejected": -7.5, "nll_chosen": 0.7051, "length_ratio": 0.9134, "ties_margin": None,
        "grad_norm": 3.25, "learning_rate": 0.00018, "pairs": 8, "tokens": 4321, "tokens_saved": 0.3817,
        "seconds": 2.5, "tokens_per_s": 1728.4,
    }  # fmt: skip
    measured = {key: step[key] for key in SUMMARY} | {"event": "eval", "pairs": 30, "at": 120.0}
    before = measured | {
        "step": 0,
        "margin": 0.0,
        "accuracy": 0.5,
        "accuracy_low": 0.33,
        "accuracy_high": 0.67,
    }
    after = measured | {
        "step": 2, "accuracy": 0.73333, "accuracy_low": 0.55547, "accuracy_high": 0.85816, "ties_margin": 0.25,
    }  # fmt: skip
    lines = [before, step | {"step": 1, "loss": 1.3, "ties_margin": 0.1}, step | {"step": 2}, after]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"step": step, "eval": [before, after]}


def hear(round_: Round, path: Path) -> None:
    """Do with a trainer's events what its watcher does."""
    progress = Progress()
    for event in Events(path).new():
        progress.hear(event)
    attempt = actions.attempt_begin(round_id=round_.pk, worker="here")
    assert attempt
    assert actions.attempt_heard(attempt=attempt, metrics=progress.metrics)


def page_of(round_: Round) -> str:
    return reverse("round", args=[round_.model.slug, round_.number])


class TestRounds:
    def test_do_not_exist_for_labelers(self, client, model):
        membership = factories.MembershipFactory(model=model)
        client.force_login(membership.user)
        round_ = start(model)

        for path in (reverse("rounds", args=[model.slug]), page_of(round_)):
            assert client.get(path).status_code == 404
            assert client.post(path).status_code in {404, 405}
        assert client.post(page_of(round_) + "cancel/").status_code == 404
        assert Round.objects.get().state == Round.State.QUEUED

    def test_say_why_there_is_nothing_to_start(self, admin, model):
        page = admin.get(reverse("rounds", args=[model.slug])).text

        assert "Judge some pairs" in page
        assert "None yet." in page

    def test_start_by_button(self, admin, model):
        judge(model, count=2)

        response = admin.post(reverse("rounds", args=[model.slug]), {"beta": "0.2"}, follow=True)

        round_ = Round.objects.get()
        assert response.redirect_chain[-1][0] == page_of(round_)
        assert (round_.started_by.username, round_.spec["loss"]["beta"]) == ("ada", 0.2)
        assert "2 new triples" in response.text

    def test_start_with_a_loss_of_their_own(self, admin, model):
        judge(model)
        path = reverse("rounds", args=[model.slug])

        refused = admin.post(path, {"preset": "length"})
        assert refused.status_code == 409
        assert "Ties can only be learned as ties" in refused.text

        admin.post(path, {"preset": "length", "ties": "no"})
        loss = Round.objects.get().spec["loss"]
        assert (loss["name"], loss["beta"], loss["ties"]) == ("ln", 5.0, False)

    def test_count_apart_what_a_round_has_taken(self, admin, model):
        factories.RoundPolicyFactory(model=model, trigger_triples=3)
        start(model)
        judge(model, count=1)

        page = " ".join(admin.get(reverse("rounds", args=[model.slug])).text.split())

        assert "<strong>1</strong> new triple waits, and 2 more are in round 1 now." in page
        assert "by itself at 3, within a minute once this one has ended." in page

    def test_lead_the_second_click_to_the_round_of_the_first(self, admin, model):
        round_ = start(model)
        judge(model)

        response = admin.post(reverse("rounds", args=[model.slug]), follow=True)

        assert response.redirect_chain[-1][0] == page_of(round_)
        assert "Round 1 of" in response.text
        assert Round.objects.count() == 1

    def test_refuse_in_a_sentence(self, admin, model):
        response = admin.post(reverse("rounds", args=[model.slug]))

        assert response.status_code == 409
        assert "There is nothing new to train on." in response.text

    def test_show_a_wrong_setting_again(self, admin, model):
        judge(model)

        response = admin.post(reverse("rounds", args=[model.slug]), {"epochs": "99"})

        assert response.status_code == 422
        assert "less than or equal to 20" in response.text
        assert not Round.objects.exists()

    def test_lead_to_the_settings(self, admin, model):
        factories.RoundPolicyFactory(model=model, trigger_triples=25, most_new=7)

        page = admin.get(reverse("rounds", args=[model.slug])).text

        assert "starts by itself at 25" in page
        assert "at most 7 of them" in page
        assert reverse("settings", args=[model.slug]) + "#rounds" in page


class TestRound:
    def test_shows_how_far_it_is(self, admin, model):
        round_ = start(model)
        attempt = actions.attempt_begin(round_id=round_.pk, worker="here")
        actions.attempt_heard(
            attempt=attempt, stage="training", stage_done=4, stage_of=9, progress=0.5, eta_s=80,
            metrics=[(step, "loss", 0.7 - step / 10) for step in range(1, 5)],
        )  # fmt: skip

        page = admin.get(page_of(round_)).text

        assert 'value="50"' in page
        assert "Step 4 of 9." in page
        assert "about a minute" in page
        assert "Loss: from 0.6 to 0.3" in page
        assert 'hx-trigger="every 2s"' in page

    @pytest.mark.parametrize("nll", [0.0, 0.2])
    def test_shows_the_numbers_of_the_trainers_events(self, admin, model, tmp_path, nll):
        judge(model, count=30, split=Split.HOLDOUT, verdict=Verdict.LEFT)
        round_ = start(model)
        round_.spec["loss"]["nll"] = nll
        round_.save()
        told = events_write(tmp_path / "events.jsonl")
        hear(round_, tmp_path / "events.jsonl")

        page = admin.get(page_of(round_))

        rows = {row.title: row.cells for row in page.context["report"].numbers}
        step, before, after = told["step"], *told["eval"]
        for key, title in NUMBER_TITLES.items():
            if key in {"loss_preference", "loss_nll"} and not nll:
                assert title not in rows
                continue
            for event, cell in zip((step, before, after), rows[title], strict=True):
                value = event.get(key)
                assert (cell.split(" ")[0] if cell else None) == (
                    None if value is None else said(value)
                )
                assert not cell or f'<td class="is-number">{cell}</td>' in page.text
        assert rows["Margin"][0] == f"{said(step['margin'])} (-0.31 to 1.7)"
        assert rows["Accuracy"][2] == "0.7333 (0.5555 to 0.8582)"
        assert rows["Accuracy"][0] == "0.875"
        about = "a version that equals its reference has 1.386"
        assert [row.title for row in page.context["report"].numbers if about in row.hint] == [
            "Loss, preferences" if nll else "Loss"
        ]

    def test_shows_held_out_numbers_only_of_enough(self, admin, model, tmp_path):
        judge(model, count=29, split=Split.HOLDOUT, verdict=Verdict.LEFT)
        round_ = start(model)
        events_write(tmp_path / "events.jsonl")
        hear(round_, tmp_path / "events.jsonl")

        page = admin.get(page_of(round_))

        assert "Held-out, after" not in page.text
        assert {len(row.cells) for row in page.context["report"].numbers} == {1}

    @pytest.mark.parametrize(
        ("good", "bad", "is_said"), [(-2.0, -9.0, True), (0.5, -9.0, False), (-2.0, -1.0, False)]
    )
    def test_says_when_both_kinds_of_answers_fall(self, admin, model, good, bad, is_said):
        round_ = start(model)
        for name, value in (("loss", 0.5), ("drift_chosen", good), ("drift_rejected", bad)):
            RoundMetric.objects.create(round=round_, step=1, name=name, value=value)

        page = " ".join(admin.get(page_of(round_)).text.split())

        assert ("Both kinds of answers have become less likely" in page) is is_said
        assert ("The presets Llama 3 and Anchored" in page) is is_said
        round_.spec["loss"]["nll"] = 0.2
        round_.save()
        assert "The presets Llama 3 and Anchored" not in admin.get(page_of(round_)).text

    def test_says_why_triples_were_left_out(self, admin, model):
        round_ = start(model)
        version = factories.ModelVersionFactory(
            model=model, adapter=True, metrics={"dropped": {"nothing_scored": 2, "too_long": 0}}
        )
        Round.objects.update(state=Round.State.SUCCEEDED, version=version)
        RoundMetric.objects.create(round=round_, step=1, name="loss", value=0.5)

        page = " ".join(admin.get(page_of(round_)).text.split())

        assert "left out 2 (an answer of nothing but special tokens, which are not scored)." in page

    def test_promises_nothing_before_it_knows(self, admin, model):
        round_ = start(model)
        actions.attempt_begin(round_id=round_.pk, worker="here")

        assert "measuring how long it takes" in admin.get(page_of(round_)).text

    def test_says_how_many_triples_were_left(self, admin, model):
        judge(model, count=3)
        round_ = actions.round_start(
            model=model, by=None, now=timezone.now(), overrides={"most_new": 1}
        )

        page = admin.get(page_of(round_)).text

        assert "1 new triple" in page
        assert "2 were left for the next round" in page

    def test_stops_polling_at_the_end(self, admin, model):
        round_ = start(model)
        assert admin.get(page_of(round_), headers={"HX-Request": "true"}).status_code == 200

        admin.post(page_of(round_) + "cancel/")

        part = admin.get(page_of(round_), headers={"HX-Request": "true"})
        assert part.status_code == 286
        assert "hx-get" not in part.text
        assert "<html" not in part.text

    def test_survives_a_login_before_the_button_took_effect(self, admin, model):
        round_ = start(model)

        assert admin.get(page_of(round_) + "cancel/").url == page_of(round_)
        assert Round.objects.get().state == Round.State.QUEUED

    def test_can_be_cancelled_twice(self, admin, model):
        round_ = start(model)

        pages = [admin.post(page_of(round_) + "cancel/", follow=True) for _ in range(2)]

        assert "cancelled" in pages[0].text
        assert "there is nothing to cancel" in pages[1].text

    def test_says_why_it_failed_and_what_to_do(self, admin, model):
        round_ = start(model)
        attempt = actions.attempt_begin(round_id=round_.pk, worker="here")
        actions.round_fail(attempt=attempt, code="no_space", why="The disk is full <b>.")

        page = admin.get(page_of(round_)).text

        assert "The disk is full &lt;b&gt;." in page
        assert "No judgement is lost" in page

    @pytest.mark.parametrize(("held_out", "shown"), [(29, "too few"), (30, "70%")])
    def test_shows_a_share_only_of_enough_held_out_triples(self, admin, model, held_out, shown):
        judge(model, count=held_out, split=Split.HOLDOUT, verdict=Verdict.LEFT)
        round_ = start(model)
        Round.objects.update(
            holdout={"pairs": held_out, "before": {"accuracy": 0.5}, "after": {"accuracy": 0.7}}
        )
        RoundMetric.objects.create(round=round_, step=1, name="loss", value=0.5)

        assert shown in admin.get(page_of(round_)).text

    def test_shows_what_changed(self, admin, model):
        round_ = start(model)
        prompt = factories.PromptFactory(model=model, split=Split.HOLDOUT)
        before, after = (
            factories.CompletionFactory(prompt=prompt, text=text)
            for text in ("Long and winding.", "Short <script>.")
        )
        version = factories.ModelVersionFactory(model=model, adapter=True)
        numbers = {"answers": 8, "tokens_mean": 9.0, "eos_rate": 1.0, "distinct2": 0.5}
        Round.objects.update(
            state=Round.State.SUCCEEDED,
            version=version,
            evaluation={
                "prompts": 2, "changed": 1, "shorter": 1, "longer": 0,
                "examples": [{"before": before.pk, "after": after.pk}],
                "kl_base": {"k1": 1.5, "k3": 1.4, "answers": 2},
                "version": numbers | {"tokens_mean": 4.5}, "parent": numbers, "base": numbers,
                "guardrails": [
                    {"name": "length", "value": 0.5, "bound": "0.7 to 1.4", "is_kept": False}
                ],
            },
        )  # fmt: skip

        page = admin.get(page_of(round_)).text

        assert "1 of 2 held-out answers changed" in page
        assert "Long and winding." in page
        assert "<script>." not in page
        assert "0.50 of its parent" in page
        assert "this version does not sample" in page

    def test_costs_the_same_number_of_queries_however_long_it_was(
        self, admin, model, django_assert_max_num_queries
    ):
        round_ = start(model)
        RoundMetric.objects.bulk_create(
            RoundMetric(round=round_, step=step, name="loss", value=1 / step)
            for step in range(1, 200)
        )

        with django_assert_max_num_queries(12):
            admin.get(page_of(round_))


class TestApi:
    def path(self, model, rest="") -> str:
        return f"/api/v1/models/{model.slug}/rounds/{rest}"

    def test_is_closed_to_labelers_and_strangers(self, client, model):
        assert client.get(self.path(model)).status_code in {401, 403}
        client.force_login(factories.MembershipFactory(model=model).user)

        answer = client.get(self.path(model))

        assert answer.status_code == 404
        assert set(answer.json()) == {"detail", "code"}

    def test_starts_tells_and_cancels(self, admin, model):
        judge(model, count=3)

        made = admin.post(
            self.path(model), {"epochs": 2, "most_new": 2}, content_type="application/json"
        )
        assert (made.status_code, made.json()) == (201, {"number": 1, "state": "queued"})

        told = admin.get(self.path(model, "1/")).json()
        assert told["triples"] == {"new": 2, "replay": 0}
        assert (told["progress"], told["eta_s"], told["version"]) == (0.0, None, None)

        again = admin.post(self.path(model), {}, content_type="application/json")
        assert (again.status_code, again.json()["code"]) == (409, "round_open")

        ended = admin.post(self.path(model, "1/cancel/"))
        assert ended.json()["state"] == "cancelled"
        assert admin.post(self.path(model, "1/cancel/")).json()["code"] == "round_ended"

    def test_takes_a_preset_and_refuses_ties_that_it_would_not_learn(self, admin, model):
        judge(model)

        def ask(**wishes):
            return admin.post(self.path(model), wishes, content_type="application/json")

        refused = ask(preset="length")
        assert (refused.status_code, refused.json()["code"]) == (409, "round_invalid")
        assert "Ties can only be learned as ties" in refused.json()["detail"]
        assert ask(preset="other").status_code == 400
        assert ask(preset="length", ties=False, beta=None).status_code == 201
        assert Round.objects.get().spec["loss"]["beta"] == 5.0

    def test_lists_the_newest_first_and_filters(self, admin, model):
        judge(model, count=3)
        factories.RoundFactory(model=model, number=1, state="cancelled")
        factories.RoundFactory(model=model, number=2)

        told = admin.get(self.path(model)).json()

        assert [round_["number"] for round_ in told["results"]] == [2, 1]
        assert (told["count"], told["triples_waiting"]) == (2, 3)
        for query, expected in [({"state": "cancelled"}, [1]), ({"ordering": "number"}, [1, 2])]:
            found = admin.get(self.path(model), query).json()["results"]
            assert [round_["number"] for round_ in found] == expected

    def test_tells_the_same_in_a_list_as_alone(self, admin, model):
        item = factories.SnapshotItemFactory(pair__prompt__model=model)
        round_ = factories.RoundFactory(
            model=model, snapshot=item.snapshot, state="running", number=1
        )
        factories.RoundAttemptFactory(round=round_, number=1, outcome="failed", progress=0.9)
        factories.RoundAttemptFactory(
            round=round_, number=2, stage="training", progress=0.4, eta_s=60
        )
        for step, value in ((1, 0.69), (2, 0.5)):
            factories.RoundMetricFactory(round=round_, step=step, value=value)

        alone = admin.get(self.path(model, "1/")).json()

        assert admin.get(self.path(model)).json()["results"] == [alone]
        assert (alone["stage"], alone["progress"], alone["eta_s"]) == ("training", 0.4, 60)
        assert (alone["metrics"], alone["triples"]) == ({"loss": 0.5}, {"new": 1, "replay": 0})

    def test_costs_the_same_however_many_rounds_there_are(
        self, admin, model, django_assert_max_num_queries
    ):
        for number in range(1, 9):
            factories.RoundFactory(model=model, number=number, state="cancelled")

        with django_assert_max_num_queries(10):
            assert len(admin.get(self.path(model)).json()["results"]) == 8

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ({"epochs": 0}, "epochs"),
            ({"most_new": -1}, "most_new"),
            ({"gamma": 1}, "gamma"),
            ({"ties": "x"}, "ties"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, admin, model, body, says):
        judge(model)

        answer = admin.post(self.path(model), body, content_type="application/json")

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert says in answer.json()["detail"]

    def test_knows_no_foreign_round(self, admin, model):
        assert admin.get(self.path(model, "7/")).json() == {
            "detail": "Not found.", "code": "not_found",
        }  # fmt: skip


class TestCommand:
    def test_starts_a_round(self, model, capsys):
        from django.core.management import call_command  # noqa: PLC0415

        judge(model, count=2)

        call_command("round_start", model.slug, "--epochs", "2", "--most-new", "1")

        assert Round.objects.get().spec["epochs"] == 2
        assert Round.objects.get().snapshot.count == 1
        assert f"/models/{model.slug}/rounds/1/" in capsys.readouterr().out

    @pytest.mark.parametrize("slug", ["nowhere", None])
    def test_refuses_in_a_sentence(self, model, slug):
        from django.core.management import CommandError, call_command  # noqa: PLC0415

        with pytest.raises(CommandError, match=r"registered as nowhere|nothing new"):
            call_command("round_start", slug or model.slug)


def test_a_lost_attempt_is_not_shown_as_progress(admin, model):
    round_ = start(model)
    RoundAttempt.objects.create(
        round=round_,
        number=1,
        lease_until=timezone.now(),
        outcome="lost",
        progress=0.7,
        stage="training",
    )
    actions.attempt_begin(round_id=round_.pk, worker="there")

    page = admin.get(page_of(round_)).text

    assert "Attempt 2" in page
    assert 'value="0"' in page
