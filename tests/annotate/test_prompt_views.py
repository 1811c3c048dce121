from __future__ import annotations

import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from annotate import queries
from annotate.models import Prompt
from annotate.queries import PromptFilter
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def model():
    return factories.RegisteredModelFactory()


@pytest.fixture
def admin():
    client = Client()
    client.force_login(factories.UserFactory(is_staff=True))
    return client


def path(model):
    return f"/models/{model.slug}/prompts/"


def send(admin, model, *, text="", name="", body=b"", tags="", system=""):
    form = {"text": text, "tags": tags, "system": system}
    if name:
        form["file"] = SimpleUploadedFile(name, body)
    return admin.post(path(model), form)


class TestImport:
    def test_takes_each_line_for_a_prompt(self, admin, model):
        response = send(
            admin, model, text="One?\r\n\r\n  Two? \r\nOne?", tags="b, a;b", system="Be brief."
        )

        assert response.status_code == 200
        one, two = Prompt.objects.order_by("pk")
        assert one.messages == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"},
        ]  # fmt: skip
        assert (two.question, two.tags) == ("Two?", ["a", "b"])
        assert re.findall(r"<dd>(\d+)</dd>", response.text) == ["2", "1", "0"]
        # Nothing is left to mend, so the form is empty again.
        assert "Be brief.</textarea>" not in response.text

    def test_keeps_what_was_typed_while_something_is_to_be_mended(self, admin, model):
        response = send(admin, model, text="One?\n" + "x" * 40_000)

        assert "at most 32 kB" in response.text
        assert "One?" in response.text.split("<textarea")[1]
        assert Prompt.objects.get().question == "One?"

    def test_reads_pasted_json_lines_as_a_file_of_them(self, admin, model):
        text = (
            '{"prompt": "One?", "system": "S", "tags": ["x"]}\r\n\r\n'
            '  {"messages": [{"role": "user", "content": "Two?"}]}\r\n{"question": 3}\r\n'
        )

        response = send(admin, model, text=text, tags="y")

        one, two = Prompt.objects.order_by("pk")
        assert [message["content"] for message in one.messages] == ["S", "One?"]
        assert (one.tags, two.question, two.tags) == (["x", "y"], "Two?", ["y"])
        assert re.findall(r"<dd>(\d+)</dd>", response.text) == ["2", "0", "1"]

    def test_refuses_a_paste_that_is_json_in_part(self, admin, model):
        response = send(admin, model, text='\nWhy?\n{"prompt": "One?"}\n{"prompt": "Two?"')

        assert response.status_code == 422
        assert "Line 3 is a JSON object and line 2 is not." in response.text
        assert not Prompt.objects.exists()

    def test_takes_json_that_is_no_object_as_it_was_typed(self, admin, model):
        send(admin, model, text='7\n"Why?"\n[1, 2]\n{a: b}')

        asked = [prompt.question for prompt in Prompt.objects.order_by("pk")]
        assert asked == ["7", '"Why?"', "[1, 2]", "{a: b}"]

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("p.jsonl", b'{"prompt": "One?", "system": "S", "tags": ["x"]}\n7\n'),
            ("p.JSON", b'\xef\xbb\xbf[{"prompt": "One?", "system": "S", "tags": ["x"]}, 7]'),
            ("p.csv", b'tags,ignored, Prompt ,system\r\nx ; ,"a\nb",One?,S\r\n\r\n,,,\r\n'),
        ],
    )
    def test_takes_files(self, admin, model, name, body):
        response = send(admin, model, name=name, body=body)

        prompt = Prompt.objects.get()
        assert prompt.messages == [
            {"role": "system", "content": "S"}, {"role": "user", "content": "One?"},
        ]  # fmt: skip
        assert prompt.tags == ["x"]
        assert re.findall(r"<dd>(\d+)</dd>", response.text) == ["1", "0", "1"]

    def test_numbers_the_rows_of_csv_by_their_lines(self, admin, model):
        body = 'prompt\n"a\nb"\n""\n' + '"' + "x" * 200_000 + '"\nlast\n'

        response = send(admin, model, name="p.csv", body=body.encode())

        assert re.findall(r'<td class="is-number">(\d+)</td>\s*<td>', response.text) == ["4", "5"]
        assert Prompt.objects.count() == 2

    @pytest.mark.parametrize(
        ("name", "body", "sentence"),
        [
            ("p.jsonl", b"\xff\xfe", "not UTF-8"),
            ("p.csv", b"question\nOne?\n", "names the columns"),
            ("p.csv", b"", "names the columns"),
            ("p.csv", b"x" * 200_000, "names the columns"),
            ("p.json", b"{}", "not a list"),
            ("p.json", b"[" * 100_000, "not JSON"),
            ("p.exe", b"One?", "must end with"),
            ("prompts", b"One?", "must end with"),
        ],
    )
    def test_refuses_other_files_in_a_sentence(self, admin, model, name, body, sentence):
        response = send(admin, model, name=name, body=body, system="Stays.")

        assert response.status_code == 422
        assert sentence in response.text
        assert "Stays." in response.text

    def test_says_so_when_there_is_nothing_too_much_or_both(self, admin, model, settings):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024**2
        sentences = {
            "one of the two": send(admin, model),
            "one of the two.": send(admin, model, text="One?", name="p.txt", body=b"One?"),
            "at most 2 MiB": send(admin, model, name="p.txt", body=b"x" * (2 * 1024**2 + 1)),
            "Put it into a file": send(admin, model, text="x" * 2_000_001),
            "1 to 50 characters": send(admin, model, text="One?", tags="x" * 51),
        }
        for sentence, response in sentences.items():
            assert response.status_code == 422
            assert sentence in response.text
        assert not Prompt.objects.exists()


class TestList:
    def test_shows_what_became_of_each(self, admin, model):
        pair = factories.JudgementFactory(
            assignment__pair__prompt__model=model,
            assignment__pair__prompt__tags=["sums"],
            assignment__pair__prompt__split="holdout",
        ).assignment.pair
        factories.PairFactory(prompt=pair.prompt)
        factories.PromptFactory(
            model=model,
            refusal="Too <b>long</b>.",
            messages=[{"role": "user", "content": "<script>alert(1)</script>"}],
        )

        page = admin.get(path(model)).text

        assert re.findall(r'<td class="is-number" data-label="\w+">(\d+)</td>', page) == [
            "0",
            "0",
            "2",
            "1",
        ]
        assert "held out" in page
        assert "&lt;script&gt;" in page
        assert "<script>alert" not in page
        assert "<b>long" not in page

    def test_goes_in_pages_that_keep_the_filter(self, admin, model):
        factories.PromptFactory.create_batch(26, model=model, tags=["sums"])
        factories.PromptFactory(model=model)

        first = admin.get(path(model), {"tag": "sums"}).text
        second = admin.get(path(model), {"tag": "sums", "page": "2"}).text

        assert "?tag=sums&amp;page=2" in first
        assert "Page 2 of 2" in second
        assert second.count('data-prompt"') == 1
        assert admin.get(path(model), {"page": "x\x00"}).status_code == 200

    def test_finds_by_text_split_tag_and_refusal(self, model):
        plain = factories.PromptFactory(model=model)
        found = factories.PromptFactory(
            model=model,
            split="holdout",
            tags=["a", "b"],
            refusal="Too long.",
            messages=[
                {"role": "system", "content": "plain"},
                {"role": "user", "content": 'Say "100%_\\"\nnow'},
            ],
        )
        factories.PromptFactory()
        for wanted in (
            PromptFilter(text='say "100%_\\"'),
            PromptFilter(split="holdout"),
            PromptFilter(tag="b"),
            PromptFilter(is_set_aside=True),
        ):
            assert list(queries.prompts_matching(model, wanted)) == [found]
        assert not queries.prompts_matching(model, PromptFilter(text="plain%"))
        assert list(queries.prompts_matching(model, PromptFilter())) == [found, plain]

    def test_says_why_it_is_empty(self, admin, model):
        assert "None yet." in admin.get(path(model)).text
        nothing = admin.get(path(model), {"text": "\x00x", "split": "?", "tag": "?", "aside": "on"})
        assert "No prompt is like that." in nothing.text

    def test_is_for_admins(self, client, model):
        client.force_login(factories.MembershipFactory(model=model).user)

        assert client.get(path(model)).status_code == 404
        assert client.post(path(model), {"text": "One?"}).status_code == 404
        assert not Prompt.objects.exists()
