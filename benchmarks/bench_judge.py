"""How long judging takes on the server: 50 labelers at 1,000,000 stored pairs, then the same at 1,000.

`make bench-judge [PAIRS=1000000]`: PostgreSQL and gunicorn as `manage.py up` runs them, each size with a cluster of
its own below var/; real sessions over HTTP on loopback, from a process of its own. Labelers think for two
seconds on average, which is several times faster than people read. One of them has judged 10,000 pairs that
still want a second opinion. Times are the client's, from the first byte sent to the last one read.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMALL = 1_000
LABELERS = 50
FAST_LABELERS = 8
THINK_S = 2.0
SECONDS = 30.0
SLUG = "bench"
#: gunicorn closes a connection that was idle for two seconds.
IDLE_S = 1.5
UUID_AT = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
CSRF = "b" * 32
VERDICTS = ["left_much", "left", "tie", "right", "right_much", "left", "right", "both_bad"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pairloop.settings")
os.environ["PAIRLOOP_API_PER_MINUTE"] = "0"
sys.path.insert(0, str(ROOT))


# --- Data ----------------------------------------------------------------------------------------------


def texts(count: int) -> list[str]:
    """Return answers of 300 to 1,500 characters with some markdown in them."""
    chance = random.Random(1)
    words = [
        "the",
        "a",
        "of",
        "and",
        "model",
        "answer",
        "people",
        "short",
        "long",
        "plain",
        "true",
        "useful",
        "because",
        "which",
        "then",
        "often",
    ]

    def sentence() -> str:
        return " ".join(chance.choices(words, k=chance.randint(6, 16))).capitalize() + "."

    def block() -> str:
        match chance.randrange(6):
            case 0:
                return "\n".join(f"- **{chance.choice(words)}**: {sentence()}" for _ in range(3))
            case 1:
                return f"```python\nprint({chance.choice(words)!r})\n```"
            case 2:
                return f"## {sentence()}"
            case _:
                return " ".join(sentence() for _ in range(chance.randint(1, 4)))

    made = []
    for _ in range(count):
        wanted, text = chance.randint(300, 1500), ""
        while len(text) < wanted:
            text += block() + "\n\n"
        made.append(text[:1500])
    return made


#: Three pairs of four answers to each prompt. Six of ten pairs are judged and done. Of the others the first ones were
#: judged by the heavy labeler and want a second opinion, and so do some that others judged; most are fresh.
FILL = """
SET session_replication_role = replica;
SET synchronous_commit = off;
INSERT INTO annotate_prompt (id, model_id, messages, sha256, split, tags, refusal, created_at)
SELECT p, {model}, jsonb_build_array(jsonb_build_object('role', 'user', 'content', p || ' ' ||
           left(t.body, 60 + p % 400))),
       encode(sha256(p::text::bytea), 'hex'), 'train', ARRAY['bench'], '', now()
FROM generate_series(1, {prompts}) p JOIN bench_text t ON t.n = p % {texts};
INSERT INTO annotate_completion (id, prompt_id, origin, version_id, text, prompt_ids, completion_ids,
    finish_reason, sampling, seed, created_at)
SELECT (p - 1) * 4 + k, p, 'engine', ({versions}::bigint[])[1 + p * 4 / {prompts_over}], t.body || k,
       ARRAY(SELECT generate_series(1, 20)), ARRAY(SELECT generate_series(1, 40)), 'stop',
       '{{"temperature": 1.0}}', p, now()
FROM generate_series(1, {prompts}) p, generate_series(1, 4) k
JOIN bench_text t ON TRUE WHERE t.n = (p * 7 + k * 13) % {texts};
INSERT INTO annotate_pair (id, prompt_id, prompt_split, first_id, second_id, purpose, comparison_id, arm, priority,
    created_at)
SELECT n, 1 + (n - 1) / 3, 'train', (n - 1) / 3 * 4 + 1, (n - 1) / 3 * 4 + 2 + (n - 1) % 3, 'train', NULL, 'uniform',
       1 + (n - 1) / 3 * 4 / {prompts_over} * 3 - (n - 1) % 3, now()
FROM generate_series(1, {pairs}) n;
CREATE TEMP TABLE bench_said AS
SELECT n AS pair_id, gen_random_uuid() AS uuid,
       CASE WHEN n % 10 < 6 THEN ({labelers}::bigint[])[1 + n % {labeler_count}]
            WHEN n <= {heavy_until} THEN {heavy}
            ELSE ({labelers}::bigint[])[1 + n % {labeler_count}] END AS labeler_id,
       n % 10 >= 6 AS waits
FROM generate_series(1, {pairs}) n
WHERE n % 10 < 6 OR n <= {heavy_until} OR n % 400 = 7;
INSERT INTO annotate_assignment (uuid, pair_id, labeler_id, first_is_left, assigned_at, expires_at, closed_at, is_on_top)
SELECT uuid, pair_id, labeler_id, pair_id % 2 = 0, now() - interval '2 days', now() - interval '1 day',
       now() - interval '2 days' + pair_id * interval '100 ms' / 10, FALSE
FROM bench_said;
INSERT INTO annotate_judgement (assignment_id, revision, verdict, winner_id, reasons, note, active_ms,
    guidelines_version, is_late, judged_at, input)
SELECT uuid, 1, 'left', CASE WHEN s.pair_id % 2 = 0 THEN first_id ELSE second_id END, '{{}}', '', 9000, 1, FALSE,
       now() - interval '2 days', 'key'
FROM bench_said s JOIN annotate_pair p ON p.id = s.pair_id;
INSERT INTO annotate_queueentry (pair_id, model_id, priority, wanted, leased, opinions, last_labeler_id)
SELECT p.id, {model}, p.priority, 1, 0, (s.uuid IS NOT NULL)::int, s.labeler_id
FROM annotate_pair p LEFT JOIN bench_said s ON s.pair_id = p.id
WHERE s.uuid IS NULL OR s.waits;
SELECT setval(pg_get_serial_sequence('annotate_' || t, 'id'), {pairs} * 4)
FROM unnest(ARRAY['prompt', 'completion', 'pair']) t;
INSERT INTO annotate_tally (model_id, labeler_id, judged, today, sides_lead, compare_lead, since_repeat, turn)
SELECT {model}, labeler_id, count(*), 0, 0, 0, 0, 0 FROM bench_said GROUP BY labeler_id;
SET session_replication_role = origin;
"""


def fill(pairs: int) -> None:
    """Make the model, its labelers and so many pairs, unless an earlier run did."""
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from annotate.models import JudgingPolicy
    from models_registry.models import Alias, Membership, ModelVersion, RegisteredModel
    from pairloop.up import postgres

    call_command("migrate", verbosity=0)
    call_command("flush", interactive=False, verbosity=0)
    sha = hashlib.sha256(b"bench").hexdigest()
    model = RegisteredModel.objects.create(
        slug=SLUG, name="Bench", base_source="none", state="ready",
        base_sha256=sha, tokenizer_sha256=sha, chat_template_sha256=sha,
    )  # fmt: skip
    JudgingPolicy.objects.create(model=model, guidelines="Prefer the answer that helps more.")
    versions: list[ModelVersion] = []
    for number in range(4):
        versions.append(
            ModelVersion.objects.create(
                model=model, number=number, kind="adapter" if number else "base",
                parent=versions[-1] if versions else None, artifact_path=f"versions/{number}",
                sha256=hashlib.sha256(f"{number}".encode()).hexdigest(), size_bytes=1, state="verified",
            )
        )  # fmt: skip
    for name in (Alias.SAMPLER, Alias.CHAMPION):
        Alias.objects.create(model=model, name=name, version=versions[-1])
    labelers = [User.objects.create(username=f"labeler-{n}") for n in range(LABELERS)]
    Membership.objects.bulk_create(Membership(model=model, user=user) for user in labelers)
    made = texts(499)
    prompts = pairs // 3 + 1
    values = {
        "model": model.pk, "pairs": pairs, "prompts": prompts, "prompts_over": prompts + 1,
        "texts": len(made), "versions": f"ARRAY{[version.pk for version in versions]}",
        # The heavy labeler is the first; of the first 25,000 pairs 4 in 10 wait for somebody else.
        "labelers": f"ARRAY{[user.pk for user in labelers[1:]]}", "labeler_count": LABELERS - 1,
        "heavy": labelers[0].pk, "heavy_until": min(pairs // 10, 25_000),
    }  # fmt: skip
    started = time.perf_counter()
    with postgres.Cluster.of(_var()).connect(database=postgres.NAME) as connection:
        connection.execute("CREATE TEMP TABLE bench_text (n int, body text)")
        with connection.cursor() as cursor, cursor.copy("COPY bench_text FROM STDIN") as copy:
            for number, body in enumerate(made):
                copy.write_row((number, body))
        for statement in FILL.format(**values).split(";\n"):
            if statement.strip():
                connection.execute(statement)  # type: ignore[call-overload]
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    print(f"{pairs:9,} pairs made in {time.perf_counter() - started:.0f} s", flush=True)


def _var() -> Path:
    from django.conf import settings

    return Path(settings.VAR)


def sessions() -> list[str]:
    """Log every labeler in; return the cookies."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User

    from pairloop.accounts.sessions import SessionStore

    keys = []
    for user in User.objects.filter(username__startswith="labeler-").order_by("pk"):
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "pairloop.accounts.backends.Accounts"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.create()
        keys.append(str(session.session_key))
    return keys


# --- The load, in a process of its own -----------------------------------------------------------------


@dataclass
class Taken:
    """Milliseconds of each kind of request, errors by what they were, and what was counted."""

    ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    statements: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


class Labeler:
    """One labeler's browser: a pair on the screen, two that wait, and a connection that is kept.

    A page's judgement brings the next pair back; `apart`, they are two requests, each with a figure of its own.
    """

    def __init__(
        self, port: int, cookie: str, taken: Taken, lock: threading.Lock, *, apart: bool
    ) -> None:
        """Take where the server is and who this is."""
        self._port, self.taken, self._lock, self._apart = port, taken, lock, apart
        self._http: http.client.HTTPConnection | None = None
        self._used = 0.0
        self._headers = {
            "Cookie": f"sessionid={cookie}; csrftoken={CSRF}", "X-CSRFToken": CSRF,
            "Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json",
        }  # fmt: skip
        self._chance = random.Random(cookie)
        self.held: list[str] = []

    def fill(self) -> None:
        """Fetch pairs until three are held."""
        while len(self.held) < 3 and self.next():
            pass

    def cycle(self) -> bool:
        """Judge what is shown and fetch another one; False when there is none."""
        if not self.held:
            return self.next()
        shown = self.held.pop(0)
        body = (
            f"verdict={self._chance.choice(VERDICTS)}&active_ms=4200&by=key"
            f"&shown_at=2026-01-05T12:00:00.000Z&reasons=clear&note="
        )
        if self._apart:
            self._post("judgement", f"{shown}/", body)
            return self.next()
        asked = "&".join([body, "next=1", *(f"have={one}" for one in self.held)])
        status, answer = self._post("both", f"{shown}/", asked)
        # Of the answer, the card alone names a pair.
        return self._holds(UUID_AT.search(answer) if status == 200 else None, empty=status == 200)

    def next(self) -> bool:
        """Fetch one more pair; False when there is none."""
        headers = {"Accept": "text/html"}
        body = "&".join(f"have={one}" for one in self.held)
        status, answer = self._post("assignment", "next/", body, headers)
        return self._holds(UUID_AT.search(answer) if status == 200 else None, empty=status == 204)

    def _holds(self, found: re.Match[bytes] | None, *, empty: bool) -> bool:
        """Take the pair that came, if one did; `empty` says that the server had none."""
        if found is None:
            self.taken.empty += empty
            return False
        self.held.append(found.group().decode())
        return True

    def _post(
        self, kind: str, path: str, body: str, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        started = time.perf_counter()
        if self._http is None or started - self._used > IDLE_S:
            if self._http:
                self._http.close()
            self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            self._http.connect()
            # As browsers do; else head and body wait for each other.
            self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._http.request(
                "POST", f"/models/{SLUG}/judge/{path}", body, self._headers | (headers or {})
            )
            response = self._http.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            self._http = None
            with self._lock:
                self.taken.errors[type(error).__name__] += 1
            return 0, b""
        self._used = time.perf_counter()
        with self._lock:
            self.taken.ms[kind].append((self._used - started) * 1000)
            if response.status not in {200, 204}:
                self.taken.errors[f"{kind} {response.status}"] += 1
            if counted := response.getheader("X-Statements"):
                self.taken.statements[kind][counted] += 1
        return response.status, answer


def load(
    port: int, cookies: list[str], *, think_s: float, seconds: float, apart: bool
) -> dict[str, Any]:
    """Let labelers judge for so long; return what was measured."""
    lock = threading.Lock()
    taken = Taken()
    warming = Taken()
    labelers = [Labeler(port, cookie, warming, lock, apart=apart) for cookie in cookies]
    for labeler in labelers:
        labeler.fill()
    cycles = [0] * len(labelers)
    until = time.perf_counter() + seconds

    def judge(index: int) -> None:
        labeler = labelers[index]
        labeler.taken = taken  # What was needed to begin is not measured.
        chance = random.Random(index)
        time.sleep(chance.uniform(0, think_s))
        while time.perf_counter() < until:
            if labeler.cycle():
                cycles[index] += 1
                time.sleep(chance.expovariate(1 / think_s) if think_s else 0)
            else:
                time.sleep(0.2)

    threads = [threading.Thread(target=judge, args=(n,)) for n in range(len(labelers))]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "ms": taken.ms,
        "errors": dict(taken.errors + warming.errors),
        "empty": taken.empty,
        "statements": {kind: dict(counts) for kind, counts in taken.statements.items()},
        "cycles": sum(cycles),
        "seconds": time.perf_counter() - started,
    }


# --- The server ----------------------------------------------------------------------------------------


@contextmanager
def serving(port: int, *, settings_module: str = "pairloop.settings") -> Iterator[None]:
    """Run gunicorn exactly as `manage.py up` does."""
    from dataclasses import replace

    from django.conf import settings

    from pairloop.lib import files, processes
    from pairloop.up import components

    settings.BIND = f"127.0.0.1:{port}"
    launch = components._web()  # noqa: SLF001 what is measured is what runs
    launch = replace(
        launch,
        environment=dict(launch.environment) | {"DJANGO_SETTINGS_MODULE": settings_module},
    )
    log = files.private_folder(_var() / "log") / "web.log"
    server = processes.spawn(launch, log=log, death_signal=signal.SIGTERM)
    try:
        for _ in range(300):
            if components._web_answers(settings.BIND):  # noqa: SLF001
                break
            if server.poll() is not None:
                raise SystemExit(f"gunicorn ended; see {log}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(30)


def measured(
    port: int, cookies: list[str], *, think_s: float, seconds: float, apart: bool = False
) -> dict[str, Any]:
    """Run the load in a process of its own, which is not this one's turn to wait."""
    asked = {
        "port": port, "cookies": cookies, "think_s": think_s, "seconds": seconds, "apart": apart,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, "--load"], check=True, stdout=subprocess.PIPE,
        input=json.dumps(asked).encode(),
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share lies; nan without values."""
    if len(values) < 2:
        return float("nan")
    return statistics.quantiles(values, n=1000)[round(share * 1000) - 1]


def tell(name: str, told: dict[str, Any]) -> None:
    """Print what one load measured."""
    for kind, values in told["ms"].items():
        p50, p95, p99 = (percentile(values, share) for share in (0.5, 0.95, 0.99))
        print(
            f"{name:28} {kind:10} n {len(values):6}  p50 {p50:6.1f}  p95 {p95:6.1f}  p99 {p99:6.1f} ms", flush=True,
        )  # fmt: skip
    requests = sum(len(values) for values in told["ms"].values())
    print(
        f"{name:28} {requests / told['seconds']:.0f} requests/s, {told['cycles'] / told['seconds']:.1f} cycles/s,"
        f" queue empty {told['empty']} times, errors {told['errors'] or 'none'}",
        flush=True,
    )


#: In the page, from the moment of a key to the frame that shows another pair: that frame's own task comes after
#: it was handed to the compositor, which is where a page's view of painting ends.
PAINTED = """() => {
  window.painted = [];
  let pressed;
  const place = document.querySelector("[data-place]");
  addEventListener("keydown", (event) => (pressed = event.timeStamp), { capture: true });
  new MutationObserver(() => {
    if (!pressed) return;
    const since = pressed;
    pressed = undefined;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.painted.push(performance.now() - since);
      channel.port2.postMessage(0);
    });
  }).observe(place, { childList: true });
}"""
KEYS = 60


def key_to_next(port: int, cookie: str) -> float | None:
    """Return p95 in milliseconds from a key to the next pair painted in Chromium; None without Chromium."""
    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None,
    )  # fmt: skip
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    origin = f"http://127.0.0.1:{port}"
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": "sessionid", "value": cookie, "url": origin}])
        page = context.new_page()
        page.goto(f"{origin}/models/{SLUG}/judge/")
        page.evaluate(PAINTED)
        for number in range(KEYS):
            # As long as nobody reads: past the guard against double presses, and two pairs wait again.
            page.wait_for_timeout(700)
            page.keyboard.press("SDFAG"[number % 5])
        page.wait_for_timeout(700)
        painted: list[float] = page.evaluate("window.painted")
        browser.close()
    p50, p95, most = (percentile(painted, 0.5), percentile(painted, 0.95), max(painted))
    print(
        f"{'key to next pair painted':28} Chromium   n {len(painted):6}  p50 {p50:6.1f}  p95 {p95:6.1f}"
        f"  most {most:6.1f} ms", flush=True,
    )  # fmt: skip
    return p95


def size(pairs: int) -> dict[str, Any]:
    """Measure one size, in a process of its own since settings are read once."""
    done = subprocess.run(
        [sys.executable, __file__, "--size", str(pairs)], check=True, stdout=subprocess.PIPE,
        env=os.environ | {"PAIRLOOP_VAR": str(ROOT / "var" / f"bench-judge-{pairs}")},
    )  # fmt: skip
    *said, last = done.stdout.decode().splitlines()
    print("\n".join(said), flush=True)
    told: dict[str, Any] = json.loads(last)
    return told


def run_size(pairs: int) -> dict[str, Any]:
    """Fill a cluster, serve it and measure: the 50, the fast 8, and the statements of one."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connections

    from pairloop.up import postgres

    name = f"{pairs:,} pairs"
    port = free_port()
    with postgres.running(postgres.Cluster.of(_var())):
        fill(pairs)
        call_command("collectstatic", interactive=False, verbosity=0)
        cookies = sessions()
        connections.close_all()
        with serving(port):
            # First requests compile templates; each thread connects, and its statements are planned.
            measured(port, cookies[1:17], think_s=0, seconds=3.0 if pairs > SMALL else 0.5)
            # Not so long that the small queue runs empty.
            seconds = SECONDS if pairs > SMALL else 8.0
            many = measured(port, cookies, think_s=THINK_S, seconds=seconds, apart=True)
            tell(f"{name}, {LABELERS} labelers", many)
            page = measured(port, cookies, think_s=THINK_S, seconds=seconds / 2)
            tell(f"{name}, in one request", page)
            heavy = measured(port, cookies[:1], think_s=0.02, seconds=3, apart=True)
            tell(f"{name}, the heavy one", heavy)
            seconds = 15.0 if pairs > SMALL else 1.0
            fast = measured(port, cookies[:FAST_LABELERS], think_s=0, seconds=seconds)
            tell(f"{name}, {FAST_LABELERS} without a pause", fast)
            key_ms = key_to_next(port, cookies[1]) if pairs > SMALL else None
        with serving(port, settings_module="benchmarks.judge_settings"):
            asked = {"think_s": 0.01, "seconds": 2.0}
            counted = measured(port, cookies[-1:], apart=True, **asked)["statements"]
            counted |= measured(port, cookies[-2:-1], **asked)["statements"]
    print(f"{name}: statements and BEGIN or COMMIT of a request, how often: {counted}")
    # Nearly all turns cost the same; those that bring a repeat, three in a hundred, cost one more, as printed above.
    most = max(_usual(counts) for counts in counted.values())
    errors = sum(sum(told["errors"].values()) for told in (many, page, heavy, fast))
    return {
        "judgement": percentile(many["ms"]["judgement"], 0.95),
        "assignment": percentile(many["ms"]["assignment"], 0.95),
        "cycles_per_s": fast["cycles"] / fast["seconds"],
        "sql": most, "errors": errors, "key_ms": key_ms,
    }  # fmt: skip


def _usual(counts: dict[str, int]) -> int:
    """Return how many statements most requests of a kind took."""
    return int(max(counts, key=lambda one: counts[one]).split()[0])


def main(pairs: int) -> None:
    """Measure both sizes and print the line that counts."""
    large, small = size(pairs), size(SMALL)
    flat = max(large[kind] / small[kind] for kind in ("judgement", "assignment"))
    key = "not measured" if large["key_ms"] is None else f"{large['key_ms']:.0f}"
    print(
        f"bench-judge: judgement_p95_ms={large['judgement']:.1f} assignment_p95_ms={large['assignment']:.1f}"
        f" sql={large['sql']} flat={flat:.2f} key_to_next_p95_ms={key}"
        f" cycles_per_s={large['cycles_per_s']:.0f} errors={large['errors'] + small['errors']}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--size", type=int)
    parser.add_argument("--load", action="store_true")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(**json.loads(sys.stdin.read()))))
    elif options.size:
        print(json.dumps(run_size(options.size)))
    else:
        main(options.pairs)
