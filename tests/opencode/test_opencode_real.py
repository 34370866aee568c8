"""What we write is asked of the real OpenCode: its own schema, and how it resolves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from opencode_support import SETTINGS

from deploys.opencode.config import system_config, user_config
from deploys.opencode.install import run_script
from inventories.settings import OpenCodeAgent, OpenCodeModel, OpenCodeProvider, OpenCodeSettings

pytestmark = pytest.mark.lab

AGENT = OpenCodeAgent(
    name="review",
    description="Reads a change.",
    mode="subagent",
    model="deep/glm",
    prompt="You review. You change nothing.",
    temperature=0.1,
    top_p=0.9,
    steps=7,
    permission={"edit": "deny", "bash": {"*": "ask", "git diff*": "allow"}},
    tools={"webfetch": False},
    hidden=False,
    disable=False,
)
EVERYTHING = dataclasses.replace(
    SETTINGS,
    providers=(
        dataclasses.replace(SETTINGS.providers[0], api_key=None),
        OpenCodeProvider(
            "deep",
            "llama-server (gpu-02)",
            "gpu-02/deep",
            "http://127.0.0.1:8889/v1",
            (
                OpenCodeModel("glm", "GLM", 65536, 16384, reasoning=True),
                OpenCodeModel("eyes", "Eyes", 32768, 8192, images=True),
            ),
        ),
    ),
    small="deep/eyes",
    permission={"*": "ask", "read": "allow", "bash": {"*": "ask", "git *": "allow"}},
    instructions=("/etc/opencode/house-rules.md",),
    agents=(AGENT, OpenCodeAgent(name="plan", disable=True)),
)
assert all(getattr(AGENT, field.name) is not None for field in dataclasses.fields(AGENT))


class Home:
    """A home of its own, an ``/etc/opencode`` of its own, and the real program in them."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.config = folder / ".config" / "opencode"
        for path in (self.etc, self.config):
            path.mkdir(parents=True)
        self.run = folder / "run"
        script = run_script("1.18.33")
        self.run.write_text(script.replace("/opt/opencode/1.18.33/opencode", str(binary)))
        self.run.chmod(0o755)
        self.environment = {
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin",
            "OPENCODE_TEST_MANAGED_CONFIG_DIR": str(self.etc),
        }

    def lay(self, settings: OpenCodeSettings) -> None:
        (self.etc / "opencode.json").write_text(system_config(settings))
        (self.config / "opencode.json").write_text(user_config("", settings, "opencode.json"))

    def debug(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call("debug", *words)

    def models(self, provider: str) -> dict[str, Any]:
        """What OpenCode makes of a provider's models: a line with the name, then an object."""
        done = self.call("models", provider, "--verbose")
        assert done.returncode == 0, done.stderr
        parts = re.split(rf"^{provider}/(\S+)$", done.stdout, flags=re.M)[1:]
        return {name: json.loads(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.run, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def resolved(self) -> Any:
        done = self.debug("config")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path: Path, opencode_binary: Path) -> Home:
    return Home(tmp_path, opencode_binary)


@pytest.fixture(scope="module")
def components(
    tmp_path_factory: pytest.TempPathFactory, opencode_binary: Path
) -> Iterator[dict[str, Any]]:
    """OpenCode's own schema, as its server tells it."""
    home = Home(tmp_path_factory.mktemp("serve"), opencode_binary)
    log = home.folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [home.run, "serve", "--hostname", "127.0.0.1", "--port", "0"],
            cwd=home.folder,
            env=home.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(600):
            if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
                break
            time.sleep(0.2)
        assert found, log.read_text()
        answer = requests.get(f"{found[0]}/doc", timeout=120)
        yield {"components": answer.json()["components"]}
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("settings", [SETTINGS, EVERYTHING], ids=["least", "everything"])
def test_every_key_that_we_write_is_one_that_opencode_takes(
    components: dict[str, Any], settings: OpenCodeSettings
) -> None:
    schema = {**components, "$ref": "#/components/schemas/Config"}
    known = components["components"]["schemas"]
    system, user = system_config(settings), user_config("", settings, "opencode.json")
    for text in (system, user):
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
        assert set(json.loads(text)) <= set(known["Config"]["properties"])
    for agent in json.loads(system).get("agent", {}).values():
        assert set(agent) <= set(known["AgentConfig"]["properties"])


def test_the_schema_would_catch_a_key_that_opencode_lacks(components: dict[str, Any]) -> None:
    schema = {**components, "$ref": "#/components/schemas/Config"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"small_modle": "x/y"})


def test_all_settings_resolve_as_they_were_meant(home: Home) -> None:
    home.lay(EVERYTHING)
    config = home.resolved()
    assert (config["model"], config["small_model"]) == ("coder/smollm2", "deep/eyes")
    assert config["instructions"] == ["/etc/opencode/house-rules.md"]
    assert config["permission"]["bash"] == {"*": "ask", "git *": "allow"}
    assert config["agent"]["review"]["model"] == "deep/glm"
    assert config["agent"]["review"]["permission"]["edit"] == "deny"
    models = config["provider"]["deep"]["models"]
    assert list(models) == ["glm", "eyes"]
    assert models["glm"]["modalities"]["input"] == ["text"]
    assert models["eyes"]["modalities"]["input"] == ["text", "image"]
    assert models["eyes"]["attachment"] is True
    rules = json.loads(home.debug("agent", "review").stdout)["permission"]
    bash = [(rule["pattern"], rule["action"]) for rule in rules if rule["permission"] == "bash"]
    assert bash[-2:] == [("*", "ask"), ("git diff*", "allow")]


def test_a_model_with_a_projector_reads_images_and_takes_files(home: Home) -> None:
    """As the program that sends the prompt sees its models, not as their file says it."""
    home.lay(EVERYTHING)
    found = {name: model["capabilities"] for name, model in home.models("deep").items()}
    assert (found["eyes"]["input"]["image"], found["eyes"]["attachment"]) == (True, True)
    assert (found["glm"]["input"]["image"], found["glm"]["attachment"]) == (False, False)


def test_a_user_adds_but_does_not_take_away(home: Home) -> None:
    home.lay(EVERYTHING)
    theirs = {
        "$schema": "https://opencode.ai/config.json",
        "share": "auto",
        "model": "cloud/big",
        "small_model": "cloud/small",
        "enabled_providers": ["cloud"],
        "instructions": ["mine.md"],
        "permission": {"webfetch": "allow", "bash": {"*": "allow"}},
        "agent": {"mine": {"prompt": "hi"}},
    }
    (home.config / "opencode.jsonc").write_text("// mine\n" + json.dumps(theirs))
    config = home.resolved()
    assert config["share"] == "disabled"
    assert (config["model"], config["small_model"]) == ("coder/smollm2", "deep/eyes")
    assert config["enabled_providers"] == ["coder", "deep"]
    assert config["instructions"] == ["mine.md", "/etc/opencode/house-rules.md"]
    assert config["permission"]["webfetch"] == "allow"
    assert config["permission"]["bash"]["*"] == "ask"
    assert config["agent"]["mine"]["prompt"] == "hi"


def test_both_files_are_read_with_comments_and_jsonc_wins(home: Home) -> None:
    json_text = '{\n  // one\n  "$schema": "x",\n  "username": "a", "theme": "t",\n}\n'
    (home.config / "opencode.json").write_text(json_text)
    (home.config / "opencode.jsonc").write_text('{"$schema": "x", /* two */ "username": "b",}')
    assert home.resolved()["username"] == "b"
    edited = user_config(json_text, EVERYTHING, "opencode.json")
    (home.config / "opencode.json").write_text(edited)
    config = home.resolved()
    assert config["username"] == "b"
    assert config["provider"]["coder"]["options"]["baseURL"] == "http://127.0.0.1:8888/v1"
    assert "// one" in edited


def test_another_system_file_beside_ours_wins_over_it(home: Home) -> None:
    home.lay(EVERYTHING)
    (home.etc / "opencode.jsonc").write_text('{"$schema": "x", "share": "auto"}')
    assert home.resolved()["share"] == "auto"


NAMESERVER = """
import socket
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    asked, whom = door.recvfrom(4096)
    end = asked.index(0, 12)
    print("asked", asked[12:end], flush=True)
    door.sendto(asked[:2] + b"\\x81\\x83" + asked[4:6] + bytes(6) + asked[12 : end + 5], whom)
"""
ALONE = """
ip link set lo up
mount --bind resolv.conf /etc/resolv.conf
{python} nameserver.py > names.log & names=$!
while ! grep -q ready names.log; do sleep 0.1; done
{run} run --format json hello < /dev/null > run.log 2>&1
sleep 2; kill $names
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network of its own")
@pytest.mark.parametrize("switched_off", [True, False], ids=["as-installed", "bare"])
def test_a_start_asks_for_no_name_of_another_machine(home: Home, switched_off: bool) -> None:
    """In a network of its own whose name server writes down every question.

    The bare program asks: so the test would see it.
    """
    home.lay(EVERYTHING)
    (home.folder / "nameserver.py").write_text(NAMESERVER)
    (home.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    if not switched_off:
        bare = re.sub(r"env \S+ ", "", home.run.read_text())
        assert bare != home.run.read_text()
        home.run.write_text(bare)
    python = sys.executable
    script = ALONE.format(python=python, run=home.run)
    environment = {**home.environment, "PATH": os.environ["PATH"]}
    subprocess.run(
        ["unshare", "--net", "--mount", "timeout", "150", "sh", "-c", script],
        cwd=home.folder,
        env=environment,
        check=False,
        timeout=200,
    )
    names = (home.folder / "names.log").read_text().splitlines()
    assert names[0] == "ready"
    assert (len(names) == 1) is switched_off, names
