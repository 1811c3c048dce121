"""From an empty folder to a real pair that a labeler judges; the engine's contracts on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.loop.product import ML_PYTHON, ROOT, Product, processes_of, token_of

pytestmark = pytest.mark.engine

JUDGEMENT = re.compile(r'action="(/models/demo/judge/[0-9a-f-]{36}/)"')

ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=1e-3)
model.save_pretrained(sys.argv[2])
"""


class TestFirstPair:
    """In order, as the files of this folder are: each test goes on where the one before it ended."""

    def test_serves_a_page_before_anything_else_is_ready(self, product: Product) -> None:
        product.wait_for("the page", lambda: product.printed("web ready"), seconds=90)

        with product.log_in("labeler") as labeler:
            page = labeler.get("/models/demo/judge/")

        assert page.status_code == 200
        assert "vLLM" in page.text
        assert not JUDGEMENT.search(page.text)

    def test_shows_a_real_pair_and_takes_verdicts(self, product: Product) -> None:
        with product.log_in("labeler") as labeler:
            judged = [_judge(product, labeler, verdict) for verdict in ("left", "tie")]
            page = labeler.get("/models/demo/judge/").text

        assert len(set(judged)) == 2
        assert ">2 today<" in page

    def test_refuses_a_second_start_on_the_same_folder(self, product: Product) -> None:
        second = subprocess.run(
            [str(ROOT / ".venv" / "bin" / "python"), "manage.py", "up"],
            cwd=ROOT,
            env=os.environ
            | {"PAIRLOOP_VAR": str(product.var), "DJANGO_SETTINGS_MODULE": "pairloop.settings"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert second.returncode == 1
        assert str(product.process.pid) in second.stdout + second.stderr

    def test_engine_keeps_the_contract_that_the_fake_keeps(
        self, product: Product, tmp_path: Path
    ) -> None:
        base = next(path for path in (product.var / "bases").iterdir() if path.is_dir())
        subprocess.run(
            [str(ML_PYTHON), "-c", ADAPTER, str(base), str(tmp_path / "adapter")],
            check=True, timeout=120,
        )  # fmt: skip
        # A long state folder has its sockets elsewhere; the command line tells where.
        command = next(iter(processes_of(product.var, naming="--uds").values()))
        engine = command.split("--uds ")[1].split()[0]

        done = subprocess.run(
            [str(ML_PYTHON), "-m", "pytest", "-q", "-c", "tests/ml.toml", "--rootdir", ".",
             "tests/contracts"],
            cwd=ROOT,
            env=os.environ
            | {
                "PAIRLOOP_TEST_ENGINE_URL": f"unix://{engine}",
                "PAIRLOOP_TEST_ENGINE_MODEL": _served_name(engine),
                "PAIRLOOP_TEST_ADAPTER": str(tmp_path / "adapter"),
            },
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

        print(done.stdout[-2000:])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "skipped" not in done.stdout.splitlines()[-1]

    def test_goes_on_sampling_after_its_worker_was_killed(self, product: Product) -> None:
        with product.log_in("labeler") as labeler:
            for _ in range(100):
                page = labeler.get("/models/demo/judge/").text
                if not (form := JUDGEMENT.search(page)):
                    break
                # It makes no triple, so what the next tests train on stays theirs.
                _post(labeler, form[1], "cannot_judge", page)
            else:
                pytest.fail("the queue does not get empty")

            # By now a top-up is under way.
            worker = next(iter(processes_of(product.var, naming="worker --queues default")))
            os.kill(worker, signal.SIGKILL)

            product.wait_for(
                "a pair written after the kill",
                lambda: JUDGEMENT.search(labeler.get("/models/demo/judge/").text),
                seconds=420,
            )


def _judge(product: Product, labeler: httpx.Client, verdict: str) -> str:
    """Wait for a pair and judge it; return the address that took the judgement."""
    product.wait_for(
        "a pair", lambda: JUDGEMENT.search(labeler.get("/models/demo/judge/").text), seconds=900
    )
    page = labeler.get("/models/demo/judge/").text
    form = JUDGEMENT.search(page)
    assert form
    _post(labeler, form[1], verdict, page)
    return form[1]


def _post(labeler: httpx.Client, address: str, verdict: str, page: str) -> None:
    answer = labeler.post(address, data={"verdict": verdict, "csrfmiddlewaretoken": token_of(page)})
    assert answer.status_code == 200


def _served_name(engine: str) -> str:
    from models_registry.engine.client import VllmEngine  # noqa: PLC0415

    with VllmEngine(f"unix://{engine}") as client:
        return client.models()[0]
