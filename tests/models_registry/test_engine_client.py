"""VllmEngine against servers that misbehave, each over a unix socket and over loopback."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models_registry.engine import client, types

QUESTION = ({"role": "user", "content": "Hello"},)
SAMPLING = types.Sampling(max_tokens=8)
GOOD: dict[str, Any] = {
    "model": "base",
    "prompt_token_ids": [1, 2, 3],
    "choices": [
        {"index": 0, "message": {"content": "Hi"}, "token_ids": [4, 2], "finish_reason": "stop"}
    ],
}

Answer = Callable[[socket.socket], None]


class Server:
    """Reads one request per connection, keeps it and lets `answer` do what it likes with the socket."""

    def __init__(self, family: type[socketserver.BaseServer], address: Any) -> None:
        self.requests: list[bytes] = []
        self.answer: Answer = reply(json.dumps(GOOD).encode())
        self.over = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer.requests.append(_request(self.request))
                try:
                    outer.answer(self.request)
                except OSError:
                    pass  # the client left first, which is what some tests are about

        class Threaded(socketserver.ThreadingMixIn, family):  # type: ignore[misc, valid-type]
            daemon_threads = True
            block_on_close = False

        self.server = Threaded(address, Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def hang(self, _: socket.socket) -> None:
        """Say nothing until the test is over."""
        self.over.wait(30)

    def drip(self, connection: socket.socket) -> None:
        """Send one byte at a time, each early enough for a limit on single reads."""
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.over.wait(0.05):
            connection.sendall(b"a")


def _request(connection: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def reply(
    body: bytes, *, status: str = "200 OK", headers: str = "", length: int | None = None
) -> Answer:
    """Answer with these bytes; `length` may lie."""
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n{headers}\r\n"

    def answer(connection: socket.socket) -> None:
        connection.sendall(head.encode() + body)

    return answer


def good(**changes: Any) -> bytes:
    """Return a good answer with some of its keys changed; None leaves one out."""
    return json.dumps(
        {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    ).encode()


def choice(**changes: Any) -> bytes:
    """Return a good answer with some keys of its only choice changed."""
    return good(choices=[{**GOOD["choices"][0], **changes}])


def complaint(status: int, message: str, *, kind: str = "BadRequestError") -> Answer:
    """Answer with an error as vLLM words it."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    return reply(json.dumps({"error": error}).encode(), status=f"{status} Error")


@pytest.fixture(params=["unix", "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Return a server that answers well until told otherwise."""
    if request.param == "unix":
        found = Server(socketserver.UnixStreamServer, str(tmp_path / "e.sock"))
    else:
        found = Server(socketserver.TCPServer, ("127.0.0.1", 0))
    yield found
    found.close()


@pytest.fixture
def engine(server: Server) -> client.VllmEngine:
    """Return the client of the server."""
    address = server.server.server_address
    url = f"unix://{address}" if isinstance(address, str) else f"http://127.0.0.1:{address[1]}"
    return client.VllmEngine(url, key="secret", timeout=5)


def sample(engine: client.VllmEngine, sampling: types.Sampling = SAMPLING) -> types.Sampled:
    return engine.sample(model="base", messages=QUESTION, sampling=sampling)


class TestSample:
    def test_reads_a_good_answer(self, engine: client.VllmEngine) -> None:
        sampled = sample(engine)

        assert sampled == types.Sampled(
            model="base",
            prompt_ids=(1, 2, 3),
            completions=(
                types.SampledCompletion(text="Hi", token_ids=(4, 2), finish_reason="stop"),
            ),
        )

    def test_sends_everything_that_shapes_the_distribution(
        self, engine: client.VllmEngine, server: Server
    ) -> None:
        sample(engine, types.Sampling(temperature=0.7, top_p=0.9, max_tokens=5, seed=3))

        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert b"Authorization: Bearer secret" in head
        assert json.loads(body) == {
            "model": "base",
            "messages": [{"role": "user", "content": "Hello"}],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_completion_tokens": 5,
            "n": 1,
            "seed": 3,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
        }

    def test_takes_an_empty_text(self, engine: client.VllmEngine, server: Server) -> None:
        # A model may end at once: the text is empty, the ids hold the end token.
        server.answer = reply(choice(message={"content": ""}, token_ids=[2]))

        assert sample(engine).completions[0].text == ""

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            pytest.param(b"", types.EngineAnswerInvalid, id="empty"),
            pytest.param(good()[:-9], types.EngineAnswerInvalid, id="cut JSON"),
            pytest.param(b"\xff\xfe{", types.EngineAnswerInvalid, id="not UTF-8"),
            pytest.param(b"[" * 200_000, types.EngineAnswerInvalid, id="nested too deep"),
            pytest.param(b"[]", types.EngineAnswerInvalid, id="a list"),
            pytest.param(b"<html>Welcome</html>", types.EngineAnswerInvalid, id="HTML"),
            pytest.param(good(model="other"), types.EngineModelMismatch, id="other model"),
            pytest.param(good(model=None), types.EngineAnswerInvalid, id="no model"),
            pytest.param(
                good(prompt_token_ids=None), types.EngineAnswerInvalid, id="no prompt ids"
            ),
            pytest.param(
                good(prompt_token_ids=[]), types.EngineAnswerInvalid, id="empty prompt ids"
            ),
            pytest.param(good(choices=None), types.EngineAnswerInvalid, id="no choices"),
            pytest.param(good(choices=[]), types.EngineAnswerInvalid, id="empty choices"),
            pytest.param(
                good(choices=GOOD["choices"] * 2), types.EngineAnswerInvalid, id="too many choices"
            ),
            pytest.param(good(choices=["a"]), types.EngineAnswerInvalid, id="choice is a text"),
            pytest.param(choice(message=None), types.EngineAnswerInvalid, id="no message"),
            pytest.param(
                choice(message={"content": None}), types.EngineAnswerInvalid, id="no text"
            ),
            pytest.param(choice(token_ids=None), types.EngineAnswerInvalid, id="no ids"),
            pytest.param(choice(token_ids=[]), types.EngineAnswerInvalid, id="empty ids"),
            pytest.param(choice(token_ids=[1.5]), types.EngineAnswerInvalid, id="ids are floats"),
            pytest.param(choice(token_ids=[True]), types.EngineAnswerInvalid, id="ids are flags"),
            pytest.param(choice(token_ids=["1"]), types.EngineAnswerInvalid, id="ids are texts"),
            pytest.param(choice(token_ids=[-1]), types.EngineAnswerInvalid, id="ids below zero"),
            pytest.param(choice(finish_reason="abort"), types.EngineAnswerInvalid, id="aborted"),
        ],
    )
    def test_refuses_a_wrong_answer(
        self, engine: client.VllmEngine, server: Server, body: bytes, error: type[types.EngineError]
    ) -> None:
        server.answer = reply(body)

        with pytest.raises(types.EngineError) as caught:
            sample(engine)

        assert type(caught.value) is error
        assert caught.value.permanent is (error is types.EngineModelMismatch)

    def test_refuses_an_answer_that_stops_short_of_its_length(
        self, engine: client.VllmEngine, server: Server
    ) -> None:
        server.answer = reply(good(), length=10_000)

        with pytest.raises(types.EngineFailed) as caught:
            sample(engine)

        assert not caught.value.permanent

    def test_stops_reading_an_answer_that_has_no_end(
        self, engine: client.VllmEngine, server: Server
    ) -> None:
        sent = 0

        def pour(connection: socket.socket) -> None:
            nonlocal sent
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
            for _ in range(200):
                connection.sendall(b" " * 1_000_000)
                sent += 1

        server.answer = pour

        with pytest.raises(types.EngineAnswerTooLarge) as caught:
            sample(engine)

        assert caught.value.permanent
        assert sent < 100

    def test_does_not_unpack_a_bomb(self, engine: client.VllmEngine, server: Server) -> None:
        server.answer = reply(b"\x1f\x8b" + bytes(100), headers="Content-Encoding: gzip\r\n")

        with pytest.raises(types.EngineAnswerInvalid):
            sample(engine)

    @pytest.mark.parametrize("how", ["hang", "drip"])
    def test_gives_up_on_time(self, engine: client.VllmEngine, server: Server, how: str) -> None:
        server.answer = {"hang": server.hang, "drip": server.drip}[how]
        engine._timeout = 0.5
        began = time.monotonic()

        with pytest.raises(types.EngineTimeout) as caught:
            sample(engine)

        assert 0.4 < time.monotonic() - began < 1.5
        assert not caught.value.permanent
        assert str(caught.value) == "The engine did not answer within 0.5 s."

    def test_follows_no_redirect(self, engine: client.VllmEngine, server: Server) -> None:
        server.answer = reply(b"", status="302 Found", headers="Location: http://127.0.0.1:9/\r\n")

        with pytest.raises(types.EngineFailed, match="redirect") as caught:
            sample(engine)

        assert not caught.value.permanent
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    def test_blames_the_engine_for_its_own_errors(
        self, engine: client.VllmEngine, server: Server, status: int
    ) -> None:
        server.answer = complaint(status, "EngineDeadError", kind="InternalServerError")

        with pytest.raises(
            types.EngineFailed, match=f"^The engine answered {status}: EngineDeadError$"
        ):
            sample(engine)

    @pytest.mark.parametrize("status", [400, 401, 413, 422])
    def test_reports_what_the_engine_refused(
        self, engine: client.VllmEngine, server: Server, status: int
    ) -> None:
        server.answer = complaint(status, "temperature must\n be " + "non-negative " * 100)

        with pytest.raises(
            types.EngineRejected, match="temperature must be non-negative"
        ) as caught:
            sample(engine)

        assert type(caught.value) is types.EngineRejected
        assert caught.value.permanent
        assert len(str(caught.value)) < 340

    def test_knows_a_missing_model(self, engine: client.VllmEngine, server: Server) -> None:
        server.answer = complaint(404, "No `base`.", kind="NotFoundError")

        with pytest.raises(types.EngineModelUnknown) as caught:
            sample(engine)

        assert caught.value.permanent

    @pytest.mark.parametrize(
        "body", [b"Not Found", b'{"detail":"Not Found"}', b'{"error":"no"}', b'{"error":null}']
    )
    def test_does_not_take_another_server_for_a_missing_model(
        self, engine: client.VllmEngine, server: Server, body: bytes
    ) -> None:
        server.answer = reply(body, status="404 Not Found")

        with pytest.raises(types.EngineRejected, match=r"^The engine answered 404\.$") as caught:
            sample(engine)

        assert type(caught.value) is types.EngineRejected

    @pytest.mark.parametrize(
        "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH_9.6\r\n"]
    )
    def test_notices_a_connection_that_breaks(
        self, engine: client.VllmEngine, server: Server, sent: bytes
    ) -> None:
        server.answer = lambda connection: connection.sendall(sent)

        with pytest.raises(types.EngineFailed) as caught:
            sample(engine)

        assert not caught.value.permanent

    @pytest.mark.parametrize("missing", ["socket", "port", "file"])
    def test_notices_that_nobody_is_there(self, tmp_path: Path, missing: str) -> None:
        (tmp_path / "file").touch()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}" if missing == "port" else f"unix://{tmp_path}/{missing}"

        with pytest.raises(types.EngineUnreachable) as caught:
            sample(client.VllmEngine(url))

        assert not caught.value.permanent

    def test_ignores_proxies_of_the_environment(
        self, engine: client.VllmEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

        assert sample(engine).model == "base"


def scored(*entries: Any, **changes: Any) -> bytes:
    """Return an answer about the ids 7, 8 and 9, which begins with the first token's None."""
    choice = {
        "index": 0,
        "text": "x",
        "finish_reason": "length",
        "prompt_logprobs": [None, *entries],
    }
    return json.dumps({"model": "base", "choices": [choice]} | changes).encode()


def token(number: int, logprob: Any) -> dict[str, Any]:
    return {str(number): {"logprob": logprob, "rank": 1, "decoded_token": "x"}}


class TestScore:
    def score(self, engine: client.VllmEngine) -> tuple[float, ...]:
        return engine.score(model="base", prompt_ids=[7], completion_ids=[8, 9])

    def test_reads_a_good_answer(self, engine: client.VllmEngine, server: Server) -> None:
        server.answer = reply(scored(token(8, -0.5), token(9, 1e-7)))

        assert self.score(engine) == (-0.5, 0.0)

        asked = json.loads(server.requests[0].split(b"\r\n\r\n", 1)[1])
        assert asked == {
            "model": "base", "prompt": [7, 8, 9], "max_tokens": 1, "temperature": 0.0,
            "prompt_logprobs": 0, "seed": 0,
        }  # fmt: skip

    @pytest.mark.parametrize(
        "wrong",
        [
            scored(token(8, -0.5)),
            scored(token(8, -0.5), token(9, -0.5), token(9, -0.5)),
            scored(token(8, -0.5), token(7, -0.5)),
            scored(token(8, -0.5), None),
            scored(token(8, -0.5), {"9": -0.5}),
            scored(token(8, float("nan")), token(9, -0.5)),
            scored(token(8, float("-inf")), token(9, -0.5)),
            scored(token(8, 0.5), token(9, -0.5)),
            scored(token(8, True), token(9, -0.5)),
            scored(token(8, "-0.5"), token(9, -0.5)),
            scored(choices=[]),
            scored(choices=[None]),
            scored(choices=[{"prompt_logprobs": None}]),
            b"[]",
        ],
    )
    def test_refuses_a_wrong_answer(
        self, engine: client.VllmEngine, server: Server, wrong: bytes
    ) -> None:
        server.answer = reply(wrong)

        with pytest.raises(types.EngineAnswerInvalid):
            self.score(engine)

    def test_notices_that_another_model_answered(
        self, engine: client.VllmEngine, server: Server
    ) -> None:
        server.answer = reply(scored(token(8, -0.5), token(9, -0.5), model="other"))

        with pytest.raises(types.EngineModelMismatch):
            self.score(engine)


class TestReady:
    def test_is_true_of_a_healthy_engine(self, engine: client.VllmEngine, server: Server) -> None:
        server.answer = reply(b"")

        assert engine.ready() is True

    @pytest.mark.parametrize("status", ["302 Found", "404 Not Found", "503 Service Unavailable"])
    def test_is_false_of_anything_else(
        self, engine: client.VllmEngine, server: Server, status: str
    ) -> None:
        server.answer = reply(b"", status=status)

        assert engine.ready() is False

    def test_is_false_when_nobody_is_there(self, tmp_path: Path) -> None:
        assert client.VllmEngine(f"unix://{tmp_path}/none").ready() is False


class TestModels:
    def test_puts_the_base_first(self, engine: client.VllmEngine, server: Server) -> None:
        cards = [
            {"id": "one", "parent": "base"},
            {"id": "base", "parent": None},
            {"id": "two", "parent": "base"},
        ]
        server.answer = reply(json.dumps({"data": cards}).encode())

        assert engine.models() == ("base", "one", "two")

    @pytest.mark.parametrize(
        "body", [b"{}", b'{"data": {}}', b'{"data": [1]}', b'{"data": [{"id": 1}]}']
    )
    def test_refuses_a_wrong_answer(
        self, engine: client.VllmEngine, server: Server, body: bytes
    ) -> None:
        server.answer = reply(body)

        with pytest.raises(types.EngineAnswerInvalid):
            engine.models()


class TestVllmEngine:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "engine",
            "/tmp/e.sock",
            "unix:e.sock",
            "unix://host/e.sock",
            "ftp://host",
            "http://",
            "file:///etc",
        ],
    )
    def test_refuses_an_address_it_cannot_speak_to(self, url: str) -> None:
        with pytest.raises(ValueError, match="is not an engine's address"):
            client.VllmEngine(url)

    def test_keeps_a_path_in_front(self, server: Server, engine: client.VllmEngine) -> None:
        if not engine._socket:
            sample(client.VllmEngine(f"{engine._url}/engines/1/"))

            assert server.requests[0].startswith(b"POST /engines/1/v1/chat/completions ")


class TestAdapterLoad:
    def test_blames_the_folder_that_is_missing(
        self, engine: client.VllmEngine, server: Server
    ) -> None:
        server.answer = complaint(404, "No adapter found for '/a'.", kind="NotFoundError")

        with pytest.raises(types.EngineRejected, match="No adapter found") as caught:
            engine.adapter_load(name="pl-1", path="/a")

        assert type(caught.value) is types.EngineRejected
        assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == {
            "lora_name": "pl-1",
            "lora_path": "/a",
        }


class TestAdapterUnload:
    def test_knows_a_missing_name(self, engine: client.VllmEngine, server: Server) -> None:
        server.answer = complaint(
            404, "The lora adapter 'pl-1' cannot be found.", kind="NotFoundError"
        )

        with pytest.raises(types.EngineModelUnknown):
            engine.adapter_unload(name="pl-1")
