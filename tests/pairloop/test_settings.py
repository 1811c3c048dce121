from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse

from annotate.models import JudgingPolicy, Split
from models_registry.models import Alias, RegisteredModel
from pairloop.lib import edits
from pairloop.pages.settings_forms import SettingsForm
from pairloop.pages.settings_views import GROUPS
from tests import factories
from training import guardrails, presets
from training.models import RoundPolicy

pytestmark = pytest.mark.django_db


@pytest.fixture
def model():
    return factories.RegisteredModelFactory(name="Mine")


@pytest.fixture
def admin(client):
    client.force_login(factories.UserFactory(is_staff=True))
    return client


def page_of(model) -> str:
    return reverse("settings", args=[model.slug])


def group_of(model, key: str) -> str:
    return reverse("settings-group", args=[model.slug, key])


def filled(client, model, key: str) -> dict[str, object]:
    """Return what a browser would send that changed nothing."""
    (card,) = [card for card in client.get(page_of(model)).context["cards"] if card.key == key]
    fields = {field.name: field.value() for field in card.form}
    sent = {
        name: value for name, value in fields.items() if value is not False and value is not None
    }
    return sent | {"seen": card.seen}


def save(client, model, key: str, /, **changes: object):
    """Send a group with some fields changed."""
    return client.post(group_of(model, key), filled(client, model, key) | changes)


class TestSettings:
    def test_do_not_exist_for_labelers(self, client, model):
        client.force_login(factories.MembershipFactory(model=model).user)

        for path in (page_of(model), *(group_of(model, key) for key in GROUPS)):
            assert client.get(path).status_code == 404
            assert client.post(path, {"name": "x", "do": "defaults"}).status_code in {404, 405}

        assert RegisteredModel.objects.get().name == "Mine"

    def test_need_a_login_a_model_a_group_and_a_token(self, client, model):
        assert client.get(page_of(model)).status_code == 302
        user = factories.UserFactory(is_staff=True)
        client.force_login(user)
        assert client.get("/models/nowhere/settings/").status_code == 404
        assert client.post(group_of(model, "other")).status_code == 404
        assert client.get(group_of(model, "rounds")).url == page_of(model) + "#rounds"
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(user)
        assert strict.post(group_of(model, "name"), {"name": "x"}).status_code == 403

    def test_cover_every_setting(self):
        # A field that is new in a policy needs a place here, or a reason.
        kept = {name for group in GROUPS.values() for name in group.form.columns_of()}
        fields = {
            field.name for kind in (JudgingPolicy, RoundPolicy) for field in kind._meta.get_fields()
        }

        assert fields - kept == {"id", "model", "updated_at", "guidelines_version"}

    @pytest.mark.parametrize("key", GROUPS)
    def test_save_nothing_when_nothing_changed(self, admin, model, key):
        factories.RoundPolicyFactory(model=model, gate={"length_least": 0.3})
        before = [list(kind.objects.values()) for kind in (JudgingPolicy, RoundPolicy)]

        assert save(admin, model, key).status_code == 302

        assert [list(kind.objects.values()) for kind in (JudgingPolicy, RoundPolicy)] == before

    def test_say_what_was_saved(self, admin, model):
        response = save(admin, model, "name", name="Yours")

        assert response.url == page_of(model) + "?saved=name#name"
        page = admin.get(response.url).text
        assert page.count("Saved.") == 1
        assert "Yours" in page

    @pytest.mark.parametrize(
        ("key", "change", "stored"),
        [
            ("sampling", {"temperature": "0.7"}, {"temperature": 0.7}),
            ("sampling", {"top_p": "1"}, {"top_p": 1.0}),
            ("sampling", {"max_tokens": "300", "samples": "8"}, {"max_tokens": 300, "samples": 8}),
            ("sampling", {"pairs_per_prompt": "1"}, {"pairs_per_prompt": 1}),
            ("sampling", {"queue_target": "7"}, {"queue_target": 7}),
            ("judging", {"overlap": "2"}, {"overlap": 2}),
            ("judging", {"overlap_most": "5"}, {"overlap_most": 5}),
            ("judging", {"second_if_slight": "on"}, {"second_if_slight": True}),
            ("judging", {"second_of_new": "3"}, {"second_of_new": 3}),
            ("judging", {"audit_share": "25"}, {"audit_share": 0.25}),
            ("judging", {"lease_minutes": "5"}, {"lease_minutes": 5}),
            ("judging", {"eval_share": "7"}, {"eval_share": 0.07}),
            ("judging", {"holdout_share": "30"}, {"holdout_share": 0.3}),
        ],
    )
    def test_of_judging_are_stored(self, admin, model, key, change, stored):
        assert save(admin, model, key, **change).status_code == 302

        policy = JudgingPolicy.objects.get()
        assert {name: getattr(policy, name) for name in stored} == stored

    @pytest.mark.parametrize(
        ("change", "stored"),
        [
            ({"trigger_triples": "25"}, {"trigger_triples": 25}),
            ({"most_new": "400"}, {"most_new": 400}),
            ({"learning_rate": "5e-05"}, {"learning_rate": 5e-5}),
            ({"beta": "0.3", "epochs": "1"}, {"beta": 0.3, "epochs": 1}),
            ({"beta": ""}, {"beta": None}),
            ({"preset": "noisy"}, {"preset": "noisy", "beta": None}),
            ({"preset": "length", "ties": ""}, {"preset": "length", "ties": False}),
            ({"batch_pairs": "16"}, {"batch_pairs": 16}),
            ({"reference": "parent"}, {"reference": "parent"}),
            ({"replay_share": "0"}, {"replay_share": 0.0}),
            ({"ties": ""}, {"ties": False}),
        ],
    )
    def test_of_rounds_are_stored(self, admin, model, change, stored):
        assert save(admin, model, "rounds", **change).status_code == 302

        policy = RoundPolicy.objects.get()
        assert {name: getattr(policy, name) for name in stored} == stored

    @pytest.mark.parametrize(
        ("key", "field", "value", "says"),
        [
            ("name", "name", "", "at most 100 characters"),
            ("sampling", "temperature", "2.5", "Give a number from 0.1 to 2."),
            ("sampling", "temperature", "nan", "Give a number from 0.1 to 2."),
            ("sampling", "samples", "1", "Give a whole number from 2 to 8."),
            ("sampling", "samples", "2.5", "Give a whole number from 2 to 8."),
            ("sampling", "max_tokens", "", "Give a whole number from 1 to 4,096."),
            ("judging", "overlap", "0", "Give a whole number from 1 to 10."),
            ("judging", "eval_share", "51", "Give a number from 0 to 50."),
            ("judging", "holdout_share", "19.9", "Give a number from 20 to 80."),
            ("judging", "holdout_share", "1e999", "Give a number from 20 to 80."),
            ("rounds", "learning_rate", "0", "Give a number from 1e-07 to 1."),
            ("rounds", "most_new", "-1", "Give a whole number from 0 to 1,000,000."),
            ("rounds", "replay_share", "100", "Give a number from 0 to 90."),
            ("rounds", "reference", "other", "other is not one of the available choices"),
            ("rounds", "beta", "0", "Give a number from 0.001 to 10."),
            ("rounds", "preset", "x", "x is not one of the available choices"),
            ("rounds", "preset", "length", "Ties can only be learned as ties"),
            ("versions", "length_least", "x", "Give a number from 0 to 1."),
            ("versions", "sampler", "oldest", "oldest is not one of the available choices"),
        ],
    )
    def test_out_of_bounds_keep_what_was_typed_and_say_the_bound(
        self, admin, model, key, field, value, says
    ):
        page = save(admin, model, key, **{field: value})

        assert page.status_code == 422
        assert says in page.text
        if value and field not in {"reference", "sampler", "preset"}:
            assert f'value="{value}"' in page.text
        assert not RoundPolicy.objects.exists()

    def test_go_back_to_the_defaults(self, admin, model):
        save(admin, model, "sampling", temperature="0.7", samples="8")
        save(admin, model, "versions", sampler="champion", length_least="0.3")

        for key in ("sampling", "versions"):
            # Whatever nonsense was typed meanwhile.
            save(admin, model, key, do="defaults", temperature="x", length_least="x")

        judging, rounds = JudgingPolicy.objects.get(), RoundPolicy.objects.get()
        assert (judging.temperature, judging.samples) == (1.0, 4)
        assert (rounds.sampler, rounds.gate) == ("latest", {})

    def test_take_only_the_fields_of_their_group(self, admin, model):
        # S14: mass assignment.
        other = factories.RegisteredModelFactory()
        extra = {
            "guidelines_version": "99", "guidelines": "Mine.", "overlap": "9", "slug": "stolen", "id": "1",
            "model_id": other.pk, "model": other.pk, "state": "failed", "base_path": "/etc", "gate": "x",
        }  # fmt: skip

        save(admin, model, "sampling", temperature="0.5", **extra)
        save(admin, model, "name", name="Yours", **extra)
        save(admin, model, "rounds", beta="0.2", **extra)

        policy = JudgingPolicy.objects.get(model=model)
        assert (policy.temperature, policy.overlap, policy.guidelines_version) == (0.5, 1, 1)
        assert policy.guidelines == "Prefer the answer that helps more."
        stored = RegisteredModel.objects.get(pk=model.pk)
        assert (stored.slug, stored.state, stored.base_path) == (model.slug, "ready", "")
        assert RoundPolicy.objects.get().model == model
        assert RoundPolicy.objects.get().gate == {}
        assert JudgingPolicy.objects.get(model=other).temperature == 1.0

    def test_tell_what_the_held_out_share_is_about(self, admin, model):
        assert "No prompt is imported yet" in admin.get(page_of(model)).text

        factories.PromptFactory.create_batch(3, model=model)
        factories.PromptFactory(model=model, split=Split.HOLDOUT)

        assert "Now 1 of 4 prompts is held out" in re.sub(
            r"\s+", " ", admin.get(page_of(model)).text
        )


class TestPresets:
    def test_are_chosen_by_what_they_do(self, admin, model):
        page = " ".join(admin.get(page_of(model)).text.split())

        for name, preset in presets.PRESETS.items():
            assert f'type="radio" name="preset" value="{name}"' in page
            assert f"{preset.about} Its own β is {preset.beta:g}." in page
        assert re.search(r'value="paper"[^>]* checked', page)

    def test_an_own_beta_that_somebody_else_cleared_is_seen(self, admin, model):
        save(admin, model, "rounds", beta="0.3")
        seen = filled(admin, model, "rounds")
        save(admin, model, "rounds", beta="")

        page = admin.post(group_of(model, "rounds"), seen | {"beta": "0.4"})

        assert page.status_code == 409
        assert '<span class="settings-meanwhile">nothing' in page.text


class TestConcurrentEdits:
    def test_tell_the_second_what_was_saved_meanwhile_and_lose_nothing(self, admin, model):
        seen = filled(admin, model, "sampling")
        save(admin, model, "sampling", temperature="0.7")

        page = admin.post(group_of(model, "sampling"), seen | {"temperature": "0.3"})

        assert page.status_code == 409
        assert "Somebody saved these settings while you were editing" in page.text
        assert 'Saved meanwhile: <span class="settings-meanwhile">0.7</span>' in page.text
        assert 'value="0.3"' in page.text
        assert JudgingPolicy.objects.get().temperature == 0.7
        # Knowing it, they may insist.
        (card,) = [card for card in page.context["cards"] if card.key == "sampling"]
        again = seen | {"temperature": "0.3", "seen": card.seen}
        assert admin.post(group_of(model, "sampling"), again).status_code == 302
        assert JudgingPolicy.objects.get().temperature == 0.3

    def test_survive_a_mistake_in_between(self, admin, model):
        seen = filled(admin, model, "sampling")
        save(admin, model, "sampling", temperature="0.7")

        wrong = admin.post(group_of(model, "sampling"), seen | {"temperature": "9"})

        # The form still knows what it was filled from.
        assert f'value="{seen["seen"]}"' in wrong.text
        right = admin.post(group_of(model, "sampling"), seen | {"temperature": "0.9"})
        assert right.status_code == 409

    @pytest.mark.parametrize(
        ("key", "first", "second", "shown"),
        [
            ("versions", {"sampler": "champion"}, {"length_least": "0.1"}, "The champion"),
            ("rounds", {"ties": ""}, {"beta": "0.2"}, "no"),
            ("rounds", {"preset": "llama3"}, {"epochs": "2"}, "Llama 3"),
            ("judging", {"eval_share": "7"}, {"overlap": "3"}, "7"),
            ("guidelines", {"guidelines": "Short."}, {"guidelines": "Long."}, "Short."),
            ("name", {"name": "<b>Yours"}, {"name": "Theirs"}, "&lt;b&gt;Yours"),
        ],
    )
    def test_are_seen_in_every_group(self, admin, model, key, first, second, shown):
        seen = filled(admin, model, key)
        save(admin, model, key, **first)

        page = admin.post(group_of(model, key), seen | second)

        assert page.status_code == 409
        assert f'<span class="settings-meanwhile">{shown}' in page.text

    def test_of_different_groups_do_not_disturb_each_other(self, admin, model):
        seen = filled(admin, model, "sampling")
        save(admin, model, "judging", overlap="2")

        assert admin.post(group_of(model, "sampling"), seen | {"samples": "6"}).status_code == 302

        policy = JudgingPolicy.objects.get()
        assert (policy.overlap, policy.samples) == (2, 6)

    def test_of_the_same_thing_are_one(self, admin, model):
        # The second of two clicks.
        sent = filled(admin, model, "guidelines") | {"guidelines": "Be kind."}

        assert [admin.post(group_of(model, "guidelines"), sent).status_code for _ in range(2)] == [
            302
        ] * 2
        assert JudgingPolicy.objects.get().guidelines_version == 2

    def test_need_a_fingerprint(self, admin, model):
        sent = filled(admin, model, "sampling") | {"samples": "6"}
        del sent["seen"]

        assert admin.post(group_of(model, "sampling"), sent).status_code == 409

    def test_never_write_what_the_database_would_refuse(self, model):
        from annotate import actions  # noqa: PLC0415

        policy = JudgingPolicy.objects.get()
        seen = edits.fingerprint(policy, ["samples"])

        with pytest.raises(edits.SettingsInvalid):
            actions.policy_change(model=model, values={"samples": 99}, seen=seen)


class TestGuidelines:
    def test_get_the_next_number_with_another_text_and_only_then(self, admin, model):
        # As the seed writes them, with a line's end at the end; browsers send two characters for it.
        JudgingPolicy.objects.update(guidelines="Be kind.\n\n- And short.\n")

        save(admin, model, "guidelines", guidelines="Be kind.\r\n\r\n- And short.\r\n")
        save(admin, model, "sampling", temperature="0.5")
        assert JudgingPolicy.objects.get().guidelines_version == 1

        save(admin, model, "guidelines", guidelines="Be kind.\r\n\r\n- And long.")
        policy = JudgingPolicy.objects.get()
        assert (policy.guidelines, policy.guidelines_version) == ("Be kind.\n\n- And long.", 2)

    def test_are_shown_as_labelers_see_them_before_they_are_saved(self, admin, model):
        hostile = "**Kind**\n\n<script>alert(1)</script>"

        for headers in ({}, {"HX-Request": "true"}):
            page = admin.post(
                group_of(model, "guidelines"),
                filled(admin, model, "guidelines") | {"guidelines": hostile, "do": "preview"},
                headers=headers,
            )
            assert "<strong>Kind</strong>" in page.text
            assert "<script>alert" not in page.text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;</textarea>" in page.text
            assert ("<html" in page.text) is not bool(headers)

        assert JudgingPolicy.objects.get().guidelines_version == 1

    def test_that_are_empty_say_what_labelers_get(self, admin, model):
        save(admin, model, "guidelines", guidelines="")

        assert "labelers get no guidelines" in admin.get(page_of(model)).text


class TestVersions:
    def test_a_change_of_who_samples_applies_at_once(self, admin, model):
        newest = factories.ModelVersionFactory(model=model, adapter=True)
        Alias.objects.filter(model=model, name=Alias.SAMPLER).update(version=newest)

        save(admin, model, "versions", sampler="champion")
        assert Alias.objects.get(model=model, name=Alias.SAMPLER).version.number == 0

        save(admin, model, "versions", sampler="latest")
        assert Alias.objects.get(model=model, name=Alias.SAMPLER).version == newest

    def test_guardrails_keep_only_what_differs_from_the_usual(self, admin, model):
        save(admin, model, "versions", length_least="0.3", eos_drop_most="12.5")

        policy = RoundPolicy.objects.get()
        assert policy.gate == {"length_least": 0.3, "eos_drop_most": 0.125}

        save(admin, model, "versions", length_least="0.7")
        assert RoundPolicy.objects.get().gate == {"eos_drop_most": 0.125}

    def test_guardrails_have_a_field_each(self):
        assert set(guardrails.BOUNDS) < set(GROUPS["versions"].form.base_fields)

    def test_guardrails_that_are_nonsense_show_the_usual(self, admin, model):
        factories.RoundPolicyFactory(model=model, gate={"kl": "x"})

        assert 'value="40.0"' in admin.get(page_of(model)).text


def test_every_field_says_what_it_does():
    forms: list[type[SettingsForm]] = [group.form for group in GROUPS.values()]

    assert all(field.help_text for form in forms for field in form.base_fields.values())
