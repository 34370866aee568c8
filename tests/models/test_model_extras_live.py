"""Adapter, draft model and chat template in a real llama-server, by the arguments of units."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from deploys.llama_server.arguments import arguments
from deploys.llama_server.files import server_files
from deploys.llama_server.instance import Instance
from inventories.settings import (
    Adapter,
    Artifact,
    DraftSettings,
    ModelSettings,
    Sampling,
    ServerSettings,
)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "sizing"))

from synthetic import write_gguf  # noqa: E402

pytestmark = pytest.mark.lab
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB = ROOT / ".lab" / "hub" / "demo" / "SmolLM2-135M-Instruct-GGUF"
EMBEDDING, RANK = 576, 4
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# of our own #}"
)


@dataclass
class Running:
    """A server that answers."""

    url: str

    def get(self, path: str) -> object:
        return requests.get(f"{self.url}{path}", timeout=30).json()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, llama_programs: dict[str, str]
) -> Iterator[Running]:
    program = llama_programs["llama-server"]
    folder = tmp_path_factory.mktemp("models")
    (folder / MODEL).symlink_to(HUB / MODEL)
    (folder / "adapters").mkdir()
    write_gguf(
        folder / "adapters/nothing.gguf",
        {
            "general.type": "adapter",
            "general.architecture": "llama",
            "adapter.type": "lora",
            "adapter.lora.alpha": 16.0,
        },
        [
            ("blk.0.attn_q.weight.lora_a", "f32", (EMBEDDING, RANK)),
            ("blk.0.attn_q.weight.lora_b", "f32", (RANK, EMBEDDING)),
        ],
    )
    made = instance(program, folder)
    command = [program, *arguments(made)]
    at = command.index("--chat-template-file") + 1
    (text,) = (file.content for file in server_files(made) if file.path == command[at])
    (folder / "own.jinja").write_text(text)
    command[at] = str(folder / "own.jinja")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{made.server.port}"
            wait_ready(url, process, folder / "log")
            yield Running(url)
        finally:
            process.terminate()
            process.wait(timeout=60)


def instance(program: str, folder: Path) -> Instance:
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    model = ModelSettings(
        "m", "M", str(folder), (Artifact(MODEL, 1, "a" * 64),),
        adapters=(Adapter("nothing", "adapters/nothing.gguf", 0.25),),
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Instance(
        ServerSettings(
            "coder",
            "m",
            port,
            2048,
            parallel=1,
            threads=1,
            sampling=Sampling(temperature=0.0),
            draft=DraftSettings("m", max=4, min=1, p_min=0.2, gpu_layers="all"),
        ),
        model,
        program,
        frozenset(re.findall(r"--[a-z0-9][a-z0-9-]*", help_text.stdout)),
        gpu=False,
        draft=model,
        chat_template=TEMPLATE,
    )


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        try:
            if requests.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def test_the_adapter_is_loaded_with_its_scale(server: Running) -> None:
    (adapter,) = json.loads(json.dumps(server.get("/lora-adapters")))
    assert adapter["path"].endswith("/adapters/nothing.gguf")
    assert adapter["scale"] == 0.25


def test_the_chat_template_is_ours(server: Running) -> None:
    assert server.get("/props")["chat_template"] == TEMPLATE  # type: ignore[index]


def test_the_draft_model_drafts(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": "Count from one to nine."}], "max_tokens": 8}
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=500).json()
    assert answer["timings"]["draft_n"] > 0
