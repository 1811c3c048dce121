"""What every engine does, asked of the fake and, when one runs, of vLLM.

PAIRLOOP_TEST_ENGINE_URL, PAIRLOOP_TEST_ENGINE_MODEL (the base's served name) and PAIRLOOP_TEST_ADAPTER
(an adapter's folder) name the real one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from models_registry.engine import client, fake, types

QUESTION = ({"role": "user", "content": "Write two sentences about the sea."},)
SHORT = types.Sampling(max_tokens=4, seed=1)


@dataclass(frozen=True)
class Case:
    """One engine with what the cases need to know about it."""

    engine: types.Engine
    base: str
    #: A folder with an adapter for the base.
    adapter: str


@pytest.fixture(params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Return each engine in turn; unload what the case loaded."""
    if request.param == "fake":
        (tmp_path / "adapter_config.json").write_text("{}")
        yield Case(engine=fake.FakeEngine(base="base"), base="base", adapter=str(tmp_path))
        return
    url = os.environ.get("PAIRLOOP_TEST_ENGINE_URL")
    if not url:
        pytest.skip("PAIRLOOP_TEST_ENGINE_URL is not set")
    base = os.environ["PAIRLOOP_TEST_ENGINE_MODEL"]
    with client.VllmEngine(url, timeout=60) as engine:
        yield Case(engine=engine, base=base, adapter=os.environ["PAIRLOOP_TEST_ADAPTER"])
        for name in engine.models():
            if name.startswith("contract-"):
                engine.adapter_unload(name=name)


def _name() -> str:
    """Return a served name that no engine has seen."""
    return f"contract-{secrets.token_hex(4)}"


class TestReady:
    def test_is_true_of_a_running_engine(self, case: Case) -> None:
        assert case.engine.ready() is True


class TestModels:
    def test_names_the_base_first(self, case: Case) -> None:
        name = _name()
        case.engine.adapter_load(name=name, path=case.adapter)

        names = case.engine.models()

        assert names[0] == case.base
        assert name in names[1:]


class TestSample:
    def test_returns_as_many_completions_as_asked(self, case: Case) -> None:
        sampled = case.engine.sample(
            model=case.base, messages=QUESTION, sampling=types.Sampling(max_tokens=16, n=3)
        )

        assert sampled.model == case.base
        assert len(sampled.completions) == 3
        for completion in sampled.completions:
            assert completion.text
            assert 1 <= len(completion.token_ids) <= 16
            assert completion.finish_reason in {"stop", "length"}

    def test_stops_at_max_tokens(self, case: Case) -> None:
        sampled = case.engine.sample(
            model=case.base, messages=QUESTION, sampling=types.Sampling(max_tokens=3)
        )

        assert len(sampled.completions[0].token_ids) == 3
        assert sampled.completions[0].finish_reason == "length"

    def test_returns_the_end_token_of_a_completion_that_ended(self, case: Case) -> None:
        # The trainer learns when to stop only if the ids hold the token that stopped it.
        question = ({"role": "user", "content": "Reply with the single word: yes"},)
        sampled = case.engine.sample(
            model=case.base,
            messages=question,
            sampling=types.Sampling(temperature=0, max_tokens=256),
        )
        (ended,) = sampled.completions
        assert ended.finish_reason == "stop"

        cut = case.engine.sample(
            model=case.base,
            messages=question,
            sampling=types.Sampling(temperature=0, max_tokens=len(ended.token_ids) - 1),
        )

        # One token less loses no text: the last one is the mark of the end.
        assert cut.completions[0].finish_reason == "length"
        assert cut.completions[0].text == ended.text
        assert cut.completions[0].token_ids == ended.token_ids[:-1]

    def test_repeats_itself_at_temperature_0(self, case: Case) -> None:
        greedy = types.Sampling(temperature=0, max_tokens=12)

        first, again = (
            case.engine.sample(model=case.base, messages=QUESTION, sampling=greedy)
            for _ in range(2)
        )

        assert first == again

    def test_gives_one_prompt_the_same_ids_every_time(self, case: Case) -> None:
        other = ({"role": "user", "content": "Name three fruits."},)

        first, again, different = (
            case.engine.sample(model=case.base, messages=messages, sampling=SHORT)
            for messages in (QUESTION, QUESTION, other)
        )

        assert first.prompt_ids == again.prompt_ids
        assert first.prompt_ids != different.prompt_ids

    def test_puts_a_system_message_into_the_prompt(self, case: Case) -> None:
        system = {"role": "system", "content": "You answer in rhymes."}

        plain = case.engine.sample(model=case.base, messages=QUESTION, sampling=SHORT)
        rhymed = case.engine.sample(model=case.base, messages=(system, *QUESTION), sampling=SHORT)

        assert rhymed.prompt_ids != plain.prompt_ids

    def test_takes_a_conversation_of_several_turns(self, case: Case) -> None:
        turns = (
            *QUESTION,
            {"role": "assistant", "content": "It is blue."},
            {"role": "user", "content": "More."},
        )

        sampled = case.engine.sample(model=case.base, messages=turns, sampling=SHORT)

        assert sampled.completions[0].text

    def test_refuses_a_model_that_is_not_served(self, case: Case) -> None:
        with pytest.raises(types.EngineModelUnknown) as caught:
            case.engine.sample(model=_name(), messages=QUESTION, sampling=SHORT)

        assert caught.value.permanent

    @pytest.mark.parametrize("name", ["", "../../x", "a\0b", "a b", "-a", "a\n", "a" * 10_000, "ä"])
    def test_does_not_even_ask_for_an_impossible_name(self, case: Case, name: str) -> None:
        with pytest.raises(ValueError, match="is not a served name"):
            case.engine.sample(model=name, messages=QUESTION, sampling=SHORT)

    def test_refuses_an_empty_conversation(self, case: Case) -> None:
        with pytest.raises(types.EngineRejected) as caught:
            case.engine.sample(model=case.base, messages=(), sampling=SHORT)

        assert caught.value.permanent

    @pytest.mark.parametrize(
        "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"n": 0}, {"max_tokens": -1}]
    )
    def test_refuses_impossible_sampling(self, case: Case, wrong: dict[str, Any]) -> None:
        with pytest.raises(types.EngineRejected):
            case.engine.sample(model=case.base, messages=QUESTION, sampling=replace(SHORT, **wrong))

    def test_serves_threads_side_by_side(self, case: Case) -> None:
        prompts = [({"role": "user", "content": f"Count to {number}."},) for number in range(2, 10)]

        def prompt_ids(messages: tuple[types.Message, ...]) -> tuple[int, ...]:
            return case.engine.sample(model=case.base, messages=messages, sampling=SHORT).prompt_ids

        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(prompt_ids, prompts))

        # Nobody got the answer to somebody else's prompt.
        assert together == [prompt_ids(messages) for messages in prompts]


class TestScore:
    def greedy(self, case: Case) -> types.Sampled:
        sampling = types.Sampling(temperature=0, max_tokens=8)
        return case.engine.sample(model=case.base, messages=QUESTION, sampling=sampling)

    def score(self, case: Case, sampled: types.Sampled, *, model: str) -> tuple[float, ...]:
        (completion,) = sampled.completions
        return case.engine.score(
            model=model, prompt_ids=sampled.prompt_ids, completion_ids=completion.token_ids
        )

    def test_returns_a_log_probability_for_each_token_of_the_completion(self, case: Case) -> None:
        sampled = self.greedy(case)

        scored = self.score(case, sampled, model=case.base)

        assert len(scored) == len(sampled.completions[0].token_ids)
        assert all(-50 < one <= 0 for one in scored)

    def test_depends_on_nothing_that_comes_later(self, case: Case) -> None:
        sampled = self.greedy(case)
        ids = sampled.completions[0].token_ids

        whole = self.score(case, sampled, model=case.base)
        cut = case.engine.score(
            model=case.base, prompt_ids=sampled.prompt_ids, completion_ids=ids[:3]
        )

        assert cut == pytest.approx(whole[:3], abs=1e-4)

    def test_depends_on_what_comes_before(self, case: Case) -> None:
        sampled = self.greedy(case)
        (completion,) = sampled.completions

        told = case.engine.score(
            model=case.base,
            prompt_ids=sampled.prompt_ids[:-2],
            completion_ids=completion.token_ids,
        )

        assert told != pytest.approx(self.score(case, sampled, model=case.base), abs=1e-4)

    def test_of_an_adapter_is_its_own(self, case: Case) -> None:
        sampled, name = self.greedy(case), _name()
        case.engine.adapter_load(name=name, path=case.adapter)

        adapted = self.score(case, sampled, model=name)

        assert adapted != pytest.approx(self.score(case, sampled, model=case.base), abs=1e-5)

    def test_disturbs_nobody_else(self, case: Case) -> None:
        """vLLM 0.32 on a CPU dies of this when its head may have an adapter."""
        sampled, name = self.greedy(case), _name()
        case.engine.adapter_load(name=name, path=case.adapter)
        alone = self.score(case, sampled, model=name)

        with ThreadPoolExecutor(max_workers=8) as pool:
            beside = [
                pool.submit(
                    case.engine.sample,
                    model=model,
                    messages=QUESTION,
                    sampling=types.Sampling(temperature=1, max_tokens=24, seed=seed),
                )
                for seed, model in enumerate([case.base, name] * 3)
            ]
            scored = [pool.submit(self.score, case, sampled, model=name) for _ in range(4)]

        assert all(len(one.result().completions) == 1 for one in beside)
        assert all(one.result() == pytest.approx(alone, abs=1e-3) for one in scored)

    def test_refuses_a_model_that_is_not_served(self, case: Case) -> None:
        with pytest.raises(types.EngineModelUnknown):
            case.engine.score(model=_name(), prompt_ids=[1], completion_ids=[2])

    @pytest.mark.parametrize("ids", [[1] * 3000, [10_000_000]])
    def test_refuses_what_no_model_can_read(self, case: Case, ids: list[int]) -> None:
        with pytest.raises(types.EngineRejected):
            case.engine.score(model=case.base, prompt_ids=[1], completion_ids=ids)

    @pytest.mark.parametrize(("prompt_ids", "completion_ids"), [([], [1]), ([1], [])])
    def test_does_not_even_ask_about_nothing(
        self, case: Case, prompt_ids: list[int], completion_ids: list[int]
    ) -> None:
        with pytest.raises(ValueError, match="at least one token"):
            case.engine.score(model=case.base, prompt_ids=prompt_ids, completion_ids=completion_ids)


class TestAdapterLoad:
    def test_lets_the_adapter_answer_by_its_name(self, case: Case) -> None:
        name = _name()

        case.engine.adapter_load(name=name, path=case.adapter)
        sampled = case.engine.sample(model=name, messages=QUESTION, sampling=SHORT)

        assert name in case.engine.models()
        assert sampled.model == name

    @pytest.mark.parametrize("taken", ["adapter", "base"])
    def test_refuses_a_name_that_is_taken(self, case: Case, taken: str) -> None:
        name = case.base
        if taken == "adapter":
            name = _name()
            case.engine.adapter_load(name=name, path=case.adapter)

        with pytest.raises(types.EngineRejected) as caught:
            case.engine.adapter_load(name=name, path=case.adapter)

        assert caught.value.permanent

    def test_refuses_a_folder_that_does_not_exist(self, case: Case) -> None:
        name = _name()

        with pytest.raises(types.EngineRejected):
            case.engine.adapter_load(name=name, path="/nowhere/at/all")

        assert name not in case.engine.models()

    @pytest.mark.parametrize("path", ["", "someone/adapter", "~/adapter", "/a\0b"])
    def test_does_not_even_ask_for_an_impossible_path(self, case: Case, path: str) -> None:
        with pytest.raises(ValueError, match="is not an absolute path"):
            case.engine.adapter_load(name=_name(), path=path)


class TestAdapterUnload:
    def test_forgets_the_name(self, case: Case) -> None:
        name = _name()
        case.engine.adapter_load(name=name, path=case.adapter)

        case.engine.adapter_unload(name=name)

        assert name not in case.engine.models()
        with pytest.raises(types.EngineModelUnknown):
            case.engine.sample(model=name, messages=QUESTION, sampling=SHORT)

    def test_refuses_a_name_that_is_not_loaded(self, case: Case) -> None:
        with pytest.raises(types.EngineModelUnknown):
            case.engine.adapter_unload(name=_name())
