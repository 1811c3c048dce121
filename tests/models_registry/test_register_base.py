from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from models_registry import actions
from models_registry.models import Alias, ModelVersion, RegisteredModel
from tests import factories
from tests.models_registry.conftest import REPORT

Conversion = Callable[[str], Path]

pytestmark = pytest.mark.django_db


def register(*arguments: str) -> str:
    """Run the command; return what it wrote."""
    written = StringIO()
    call_command("register_base", *arguments, stdout=written)
    return written.getvalue()


class TestRegisterBase:
    def test_registers_the_demo_under_its_name(self, conversion: Conversion) -> None:
        conversion("good")

        said = register("demo")

        model = RegisteredModel.objects.get()
        assert (model.slug, model.name, model.base_source) == (
            "demo", "SmolLM2-135M-Instruct", "demo",
        )  # fmt: skip
        assert model.is_ready
        assert ModelVersion.objects.get().sha256 == REPORT["sha256"]
        assert Alias.objects.filter(model=model).count() == 2
        assert "demo/v0 is registered: 135 million parameters" in said

    @pytest.mark.parametrize(
        ("folder", "slug"),
        [
            ("Tiny-Llama", "tiny-llama"),
            ("Qwen2.5-0.5B", "qwen25-05b"),
            ("tiny_llama_v2", "tiny-llama-v2"),
            ("a" * 60, "a" * 50),
        ],
    )
    def test_makes_slug_and_name_from_the_source(
        self, conversion: Conversion, tmp_path: Path, folder: str, slug: str
    ) -> None:
        conversion("good")
        (tmp_path / folder).mkdir()

        register(str(tmp_path / folder))

        model = RegisteredModel.objects.get()
        assert (model.slug, model.name) == (slug, folder)

    def test_takes_slug_name_and_rank(self, conversion: Conversion) -> None:
        conversion("good")

        register("org/model", "--slug", "mine", "--name", "My model", "--rank", "32")

        model = RegisteredModel.objects.get()
        assert (model.slug, model.name, model.lora_rank, model.lora_alpha) == (
            "mine", "My model", 32, 64,
        )  # fmt: skip

    def test_leaves_nothing_of_a_model_that_was_refused(self, conversion: Conversion) -> None:
        conversion("refused")

        with pytest.raises(CommandError, match=r"It has no tokenizer\."):
            register("org/model")

        assert not RegisteredModel.objects.exists()

    def test_keeps_the_reason_where_labelers_wait(self, conversion: Conversion) -> None:
        conversion("refused")
        announced = actions.model_prepare(slug="model", name="Model", source="org/model")
        factories.MembershipFactory.create(model=announced)

        with pytest.raises(CommandError, match=r"It has no tokenizer\."):
            register("org/model")

        model = RegisteredModel.objects.get()
        assert model.has_failed
        assert model.failure == "It has no tokenizer."
        assert not ModelVersion.objects.exists()

    def test_succeeds_after_a_failure(self, conversion: Conversion) -> None:
        conversion("crash")
        with pytest.raises(CommandError):
            register("org/model")
        conversion("good")

        register("org/model")

        model = RegisteredModel.objects.get()
        assert model.is_ready
        assert model.failure == ""

    def test_refuses_the_same_slug_a_second_time(self, conversion: Conversion) -> None:
        asked = conversion("good")
        register("demo")

        with pytest.raises(CommandError, match="registered already; choose another slug"):
            register("demo")

        # And it says so before it converts anything.
        assert len(asked.read_text().splitlines()) == 1
        assert RegisteredModel.objects.get().is_ready

    def test_registers_the_same_base_under_another_slug(self, conversion: Conversion) -> None:
        conversion("good")
        register("demo")

        register("demo", "--slug", "second")

        assert set(ModelVersion.objects.values_list("sha256", flat=True)) == {REPORT["sha256"]}
        assert ModelVersion.objects.count() == 2

    @pytest.mark.parametrize(
        "arguments", [["/nowhere/model"], ["demo", "--rank", "3"], ["demo", "--slug", "De mo"]]
    )
    def test_announces_nothing_that_it_cannot_try(
        self, conversion: Conversion, arguments: list[str]
    ) -> None:
        asked = conversion("good")

        with pytest.raises(CommandError):
            register(*arguments)

        assert not RegisteredModel.objects.exists()
        assert not asked.exists()
