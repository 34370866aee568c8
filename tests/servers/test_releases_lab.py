"""Releases on a lab host: kept when they answer as declared, undone when they don't."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from converge_support import DEFAULTS, MODELS, Site, changed, converged

from deploys.llama_server.instance import Instance
from deploys.llama_server.release import render_check
from inventories.fleet import load_fleet
from inventories.lock import read_lock
from inventories.resolve import resolve_host

pytestmark = pytest.mark.lab

STORE = "/var/lib/llamaherd/releases/coder"
FLEET = (
    MODELS
    + DEFAULTS
    + """\
hosts:
  box:
    ssh: {{hostname: {alias}, user: ops, config_file: {ssh_config}}}
    servers:
      coder: {{model: smollm2, port: 8888, context: 2048, api_key: {{env: TEST_API_KEY}}}}
"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with converged(FLEET, tmp_path_factory.mktemp("fleet"), "releases") as site:
        yield site


def link(site: Site, name: str) -> str:
    return site.ssh(f"readlink {STORE}/{name}")


def running(site: Site) -> tuple[str, str]:
    """The configuration hash and the arguments of the server's process."""
    pid = site.ssh("systemctl show -P MainPID llama-server@coder")
    config = site.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n 's/^LLAMAHERD_CONFIG=//p'")
    return config, site.ssh(f"tr '\\0' ' ' < /proc/{pid}/cmdline")


def answers(site: Site) -> bool:
    """Whether the server answers a completion to whoever has the key."""
    body = '{"model": "smollm2", "prompt": "Hello", "max_tokens": 1}'
    return "completion_tokens" in site.ssh(
        f"curl -s -H 'Authorization: Bearer {site.key}' -d '{body}' 127.0.0.1:8888/v1/completions"
    )


def test_what_answered_is_kept_with_all_that_makes_it(site: Site) -> None:
    release, arguments = running(site)
    assert link(site, "current") == release
    assert link(site, "previous") == ""
    unit = "/etc/systemd/system/llama-server@coder.service"
    assert site.ssh(f"cmp {unit} {STORE}/current/unit && echo same") == "same"
    used = site.ssh(f"cat {STORE}/current/uses").splitlines()
    assert used[0] == arguments.split()[0].removesuffix("/bin/llama-server")
    assert used[1] in arguments
    assert site.ssh(f"stat -c %a {STORE} {STORE}/{release} {STORE}/{release}/etc/api-key") == (
        "700\n700\n600"
    )


def gpu_check(site: Site, action: str, nvidia_smi: str) -> str:
    """What the check of a CUDA build says of the running server; nvidia-smi is a stand-in."""
    lock = read_lock(site.fleet)
    assert lock is not None
    settings = resolve_host(load_fleet(site.fleet), lock, "box")
    server = replace(settings.servers[0], gpus=("0",))
    binary = site.ssh(f"head -n 1 {STORE}/current/uses") + "/bin/llama-server"
    model = settings.model(server.model)
    check = render_check(Instance(server, model, binary, frozenset(), gpu=True, api_key="x"))
    put = "base64 -d > /run/{}".format
    pid = "$(systemctl show -P MainPID llama-server@coder)"
    answer = f"#!/bin/sh\necho {nvidia_smi}\n" if nvidia_smi else "#!/bin/sh\n"
    for name, text in (("check", check), ("nvidia-smi", answer)):
        site.ssh(f"echo {base64.b64encode(text.encode()).decode()} | {put(name)}")
    site.ssh("chmod +x /run/nvidia-smi")
    return site.ssh(f"export PID={pid} PATH=/run:$PATH; sh /run/check {action} && echo well")


def test_layers_that_are_not_on_the_gpu_are_noticed(site: Site) -> None:
    # The model's file has 93 MiB: half of that must be in the card's memory.
    assert gpu_check(site, "answers 60", "$PID, 98") == "well"
    assert gpu_check(site, "answers 60", "$PID, 3") == (
        "it computes on the processor: it has 3 MiB of the GPU's memory, its layers need 46"
    )
    alone = "it computes on the processor: its process is on no GPU"
    assert gpu_check(site, "answers 60", "1, 98") == alone
    assert gpu_check(site, "answers 60", "$PID, [N/A]") == alone
    assert gpu_check(site, "answers 60", "") == alone


def test_a_build_that_sees_no_gpu_is_told_before_anything_is_stopped(site: Site) -> None:
    said = gpu_check(site, "devices", "")
    assert "sees no CUDA device (--list-devices): mend the driver (nvidia-smi)" in said


def test_a_second_good_release_keeps_the_first_one_beside_it(site: Site) -> None:
    first = link(site, "current")
    fleet = site.variant("larger", ("context: 2048", "context: 4096"))

    result = site.converge(fleet=fleet)

    assert result.returncode == 0, result.stdout + result.stderr
    release, arguments = running(site)
    assert "--ctx-size 8192" in arguments
    assert (link(site, "current"), link(site, "previous")) == (release, first)
    # The key that is in force is enough.
    assert site.ssh(f"ls {STORE}/{first}/etc/api-key") == ""
    assert changed(site.converge("--json", fleet=fleet)) == []


def test_a_release_that_does_not_start_gives_way_to_the_one_before(site: Site) -> None:
    before = running(site)
    broken = site.variant(
        "broken",
        ("context: 2048", "context: 4096, extra_args: [--lora, /nowhere.gguf]"),
    )

    result = site.converge(fleet=broken)

    said = result.stdout + result.stderr
    assert result.returncode == 1, said
    assert "/nowhere.gguf" in said
    assert re.search(
        r"did not start \(exit-code\): its last log lines are above; "
        rf"release {before[0]} serves again after \d+\.\d s of interruption",
        said,
    ), said
    assert running(site) == before
    assert answers(site)
    assert site.ssh(f"ls {STORE}").split() == sorted(
        ["current", "lock", "previous", link(site, "current"), link(site, "previous")]
    )
    drift = site.run("llamaherd", "drift", "--json", fleet=broken)
    assert drift.returncode == 2, drift.stdout
    assert changed(site.converge("--json", fleet=site.fleet.with_name("larger.yaml"))) == []


def test_a_release_that_answers_other_than_declared_gives_way_too(site: Site) -> None:
    before = running(site)
    # The model was trained for 8192 tokens: llama.cpp gives a session no more. Preflight would say
    # so, and is told by an option of YaRN, which nothing else turns on, that somebody stretched it.
    stretched = "context: 16384, extra_args: [--yarn-beta-fast, '32']"
    wrong = site.variant("wrong", ("context: 2048", stretched))

    result = site.converge(fleet=wrong)

    said = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == 1, said
    assert "answers, and not as declared: a session gets 8192 tokens of context, 16384" in said
    assert running(site) == before
    assert answers(site)


def test_rollback_swaps_the_two_and_goes_back_again(site: Site) -> None:
    current, previous = link(site, "current"), link(site, "previous")

    done = site.run("llamaherd", "rollback", "box", "coder")

    assert done.returncode == 0, done.stderr
    assert f"release {previous} serves again" in done.stdout
    assert running(site)[0] == previous
    assert (link(site, "current"), link(site, "previous")) == (previous, current)
    assert answers(site)
    again = site.run("llamaherd", "rollback", "box", "coder", "--json")
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["ok"], report["release"], report["previous"]) == (True, current, previous)


def test_there_is_nothing_to_roll_back_to_where_no_release_was_replaced(site: Site) -> None:
    kept = link(site, "previous")
    site.ssh(f"rm {STORE}/previous")
    before = running(site)

    done = site.run("llamaherd", "rollback", "box", "coder")

    site.ssh(f"ln -s {kept} {STORE}/previous")
    assert done.returncode == 1
    assert "has no previous release to go back to" in done.stderr
    assert running(site) == before
