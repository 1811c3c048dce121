"""A model's settings in plain words, one form for each group; a form only validates."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.db.models import Model

from annotate.models import LEAST_HOLDOUT_SHARE, JudgingPolicy
from models_registry.models import RegisteredModel
from training import guardrails, presets
from training.models import Reference, RoundPolicy

#: What fits into the database's columns, and what anybody could want.
MOST_TRIPLES = 1_000_000


class Whole(forms.IntegerField):
    """A whole number within bounds, which the refusal names."""

    def __init__(self, label: str, least: int, most: int, help_text: str, unit: str = "") -> None:
        """Take the bounds and what stands behind the number."""
        self.unit = unit
        self.bounds = f"{least:,} to {most:,}"
        super().__init__(
            label=label, min_value=least, max_value=most, help_text=help_text,
            error_messages=_says(f"a whole number from {self.bounds}"), widget=_number("1"),
        )  # fmt: skip


class Number(forms.FloatField):
    """A number within bounds, which the refusal names."""

    def __init__(
        self,
        label: str,
        least: float,
        most: float,
        help_text: str,
        unit: str = "",
        *,
        required: bool = True,
    ) -> None:
        """Take the bounds, what stands behind the number and whether there must be one."""
        self.unit = unit
        self.bounds = f"{least:g} to {most:g}"
        super().__init__(
            label=label, min_value=least, max_value=most, help_text=help_text, required=required,
            error_messages=_says(f"a number from {self.bounds}"), widget=_number("any"),
        )  # fmt: skip


class Percent(forms.FloatField):
    """A share, typed and shown in percent."""

    unit = "%"

    def __init__(self, label: str, least: float, most: float, help_text: str) -> None:
        """Take the bounds as shares of 1."""
        self.bounds = f"{least * 100:g} to {most * 100:g}"
        super().__init__(
            label=label, help_text=help_text, widget=_number("any"),
            error_messages=_says(f"a number from {self.bounds}"),
        )  # fmt: skip
        self.least, self.most = least, most

    def prepare_value(self, value: Any) -> Any:
        """Show a stored share in percent, and what was typed as it was typed."""
        return value if value is None or isinstance(value, str) else f"{value * 100:.6g}"

    def clean(self, value: Any) -> float:
        """Return the share. Raises ValidationError."""
        share: float = round(super().clean(value) / 100, 8)
        if not self.least <= share <= self.most:
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid")
        return share


class PresetRadios(forms.RadioSelect):
    """One radio button for each preset, which the template writes with its sentence."""

    def create_option(self, name: str, value: Any, *rest: Any, **others: Any) -> dict[str, Any]:
        """Give the option its preset."""
        option: dict[str, Any] = super().create_option(name, value, *rest, **others)
        return option | {"preset": presets.PRESETS[str(value)]}


def _number(step: str) -> forms.NumberInput:
    return forms.NumberInput(attrs={"class": "input", "step": step})


def _says(what: str) -> dict[str, str]:
    return dict.fromkeys(("required", "invalid", "min_value", "max_value"), f"Give {what}.")


class SettingsForm(forms.Form):
    """Fields of one row. `columns` are the row's; usually they have the fields' names."""

    row: ClassVar[type[Model]]
    columns: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def columns_of(cls) -> tuple[str, ...]:
        """Return which columns of the row the form is about."""
        return cls.columns or tuple(cls.base_fields)

    @classmethod
    def stored(cls, row: Model) -> dict[str, Any]:
        """Return what a row says, by the form's fields."""
        return {name: getattr(row, name) for name in cls.base_fields}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the columns of a row that nobody touched."""
        untouched = cls.row()
        return {name: getattr(untouched, name) for name in cls.columns_of()}

    def values(self) -> dict[str, Any]:
        """Return the columns as they shall be."""
        return dict(self.cleaned_data)


class NameForm(SettingsForm):
    """What the model is called."""

    row = RegisteredModel
    name = forms.CharField(
        label="Name",
        max_length=100,
        help_text="What pages and labelers call the model. Addresses and files keep its slug.",
        error_messages={"required": "Give the model a name of at most 100 characters."},
        widget=forms.TextInput(attrs={"class": "input"}),
    )


class GuidelinesForm(SettingsForm):
    """What labelers are told."""

    row = JudgingPolicy
    guidelines = forms.CharField(
        label="Guidelines",
        required=False,
        max_length=20_000,
        help_text="Markdown. A new text gets a new number, and each judgement keeps the number it followed.",
        widget=forms.Textarea(attrs={"class": "input", "rows": 12}),
    )

    def clean_guidelines(self) -> str:
        """Return the text with one kind of line end: browsers send two characters."""
        return str(self.cleaned_data["guidelines"]).replace("\r\n", "\n")


class SamplingForm(SettingsForm):
    """How completions are drawn."""

    row = JudgingPolicy
    temperature = Number(
        "Temperature", 0.1, 2.0,
        "Higher makes the two answers differ more, and both of them wilder. Small models need less.",
    )  # fmt: skip
    top_p = Number(
        "Top p", 0.1, 1.0,
        "Only the likeliest next words that together have this probability are drawn from; 1 allows all.",
    )  # fmt: skip
    max_tokens = Whole(
        "Longest answer", 1, 4096,
        "An answer that is cut off here is not shown to labelers, so leave enough room to finish.",
        "tokens",
    )  # fmt: skip
    samples = Whole(
        "Answers per prompt", 2, 8,
        "Drawn in one request; pairs are made of those that differ.", "answers",
    )  # fmt: skip
    pairs_per_prompt = Whole(
        "Most pairs of one prompt", 1, 3,
        "More are cheaper to write, but labelers see the same prompt more often.", "pairs",
    )  # fmt: skip
    queue_target = Whole(
        "Pairs that should wait", 1, 1000,
        "Fewer keep pairs fresh when a new version comes; more keep fast labelers from waiting.",
        "pairs",
    )  # fmt: skip


class JudgingForm(SettingsForm):
    """How pairs are judged."""

    row = JudgingPolicy
    overlap = Whole(
        "People who judge a pair", 1, 10,
        "Two or more show how far labelers agree, and cost as many times the work. For pairs that wait, too.",
        "people",
    )  # fmt: skip
    overlap_most = Whole(
        "People at most", 1, 10,
        "One opinion is not always enough: then somebody else is asked, and when two contradict each other a third. 1 never asks.",
        "people",
    )  # fmt: skip
    second_if_slight = forms.BooleanField(
        label="Ask again after a slight preference",
        required=False,
        help_text="Somebody else judges a pair, too, when the first person found one answer only slightly better.",
    )
    second_of_new = Whole(
        "Second opinions on newcomers", 0, 1000,
        "Somebody else judges what a labeler judges first, so one sees early whether they follow the guidelines.",
        "judgements",
    )  # fmt: skip
    audit_share = Percent(
        "Second opinions at random", 0, 1,
        "On so many of all pairs, whatever was said; they show how far labelers agree.",
    )  # fmt: skip
    lease_minutes = Whole(
        "Time to judge", 1, 1440,
        "So long a pair is reserved for whom it is shown to; then somebody else gets it, and a late judgement still counts.",
        "minutes",
    )  # fmt: skip
    eval_share = Percent(
        "Pairs that only measure", 0, 0.5,
        "On held-out prompts: each round's accuracy is measured on them and nothing is trained on them. At 0 no accuracy is ever shown.",
    )  # fmt: skip
    holdout_share = Percent(
        "Held-out prompts", LEAST_HOLDOUT_SHARE, 0.8,
        "Prompts that are never trained on. A prompt's side is settled when it is imported, so this is about prompts imported later.",
    )  # fmt: skip


class RoundsForm(SettingsForm):
    """When and how a round trains."""

    row = RoundPolicy
    preset = forms.ChoiceField(
        label="What it learns",
        choices=presets.CHOICES,
        help_text="Which loss a round makes smaller.",
        widget=PresetRadios,
    )
    trigger_triples = Whole(
        "Start a round by itself at", 0, MOST_TRIPLES,
        "Pairloop looks every minute; 0 leaves it to the button. After a round that failed or was cancelled it waits for as many more.",
        "new triples",
    )  # fmt: skip
    most_new = Whole(
        "Most that one round takes", 0, MOST_TRIPLES,
        "Judged ones before those of a file, the oldest first; the rest waits for the next round. 0 takes all.",
        "new triples",
    )  # fmt: skip
    learning_rate = Number(
        "Learning rate", 1e-7, 1,
        "How far each step goes. Too high and the model forgets how to write, too low and nothing changes.",
    )  # fmt: skip
    beta = Number(
        "β", 0.001, 10,
        "How strongly the reference holds the new version: a higher β stays closer to it. Empty: the preset's own.",
        required=False,
    )  # fmt: skip
    epochs = Whole("Epochs", 1, 20, "How often each triple is seen in a round.", "times")
    batch_pairs = Whole(
        "Triples of one step", 1, 512,
        "More make each step steadier and leave fewer steps.", "triples",
    )  # fmt: skip
    reference = forms.ChoiceField(
        label="Reference",
        choices=[
            (Reference.BASE, "The base"),
            (Reference.PARENT, "The parent"),
        ],
        help_text="What the new version is held to. Held to the base, all versions stay near it; held to their parents, they may wander further with each round.",
        widget=forms.Select(attrs={"class": "input"}),
    )
    replay_share = Percent(
        "Triples of earlier rounds", 0, 0.9,
        "At most this share of a round repeats what earlier ones learned, so that it is not forgotten.",
    )  # fmt: skip
    ties = forms.BooleanField(
        label="Learn from ties",
        required=False,
        help_text="“Equally good” teaches the model to keep both answers equally likely. Otherwise a tie counts as half a win for each.",
    )

    def clean(self) -> dict[str, Any]:
        """Refuse ties that the preset's loss would not learn as ties."""
        given: dict[str, Any] = super().clean() or {}
        if why := presets.refusal(given.get("preset", ""), ties=bool(given.get("ties"))):
            self.add_error("ties", why)
        return given


class VersionsForm(SettingsForm):
    """Which version writes the pairs, and what keeps one from it."""

    row = RoundPolicy
    columns = ("sampler", "gate")
    sampler = forms.ChoiceField(
        label="Which version samples",
        choices=[
            ("latest", "The newest within the guardrails"),
            ("champion", "The champion"),
        ],
        help_text="It writes the pairs that labelers see, and the next round trains on from it. The champion changes only when somebody promotes a version. A change of this setting applies at once.",
        widget=forms.Select(attrs={"class": "input"}),
    )
    kl_base_most = Number(
        "Farthest from the base", 0, 10_000,
        "How much likelier, on average, an answer may be to the new version than to the base.",
        "nats",
    )  # fmt: skip
    distinct2_least = Number(
        "Least variety", 0, 1,
        "Different two-word sequences in its answers, as a part of the base's. A version that repeats itself falls below.",
        "of the base's",
    )  # fmt: skip
    length_least = Number(
        "Shortest answers", 0, 1, "Mean length of its answers.", "of its parent's"
    )
    length_most = Number(
        "Longest answers", 1, 100, "Mean length of its answers.", "of its parent's"
    )
    eos_drop_most = Percent(
        "Unfinished answers", 0, 1,
        "By so many more of a hundred answers than of the base's may run on until they are cut off.",
    )  # fmt: skip

    @classmethod
    def stored(cls, row: Model) -> dict[str, Any]:
        """Return the policy with every guardrail; the usual ones where somebody wrote nonsense by SQL."""
        if not isinstance(row, RoundPolicy):
            raise TypeError(row)
        try:
            bounds = guardrails.bounds_of(row.gate)
        except guardrails.BoundsInvalid:
            bounds = guardrails.BOUNDS
        return {"sampler": row.sampler, **bounds}

    def values(self) -> dict[str, Any]:
        """Return the columns; `gate` keeps what differs from the usual bounds."""
        gate = {
            name: self.cleaned_data[name]
            for name, usual in guardrails.BOUNDS.items()
            if self.cleaned_data[name] != usual
        }
        return {"sampler": self.cleaned_data["sampler"], "gate": gate}
