"""A fleet that can't fit on the GPUs that it declares is refused by its files alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_estimates import dimensions

from inventories.fleet import Fleet, fleet_of
from inventories.groups import FleetError, pyinfra_groups
from inventories.lock import Lock, ModelPin, SourcePin, model_request, write_lock
from inventories.settings import Artifact
from inventories.sizing.declared import check_memory
from llamaherd.cli import main
from schemas.document import parse_document

BUILD = """\
version: 1
models:
  flash: {catalogue: glm-4.7-flash}
  next: {catalogue: qwen3-coder-next}
  own: {hub: {repo: acme/Own-GGUF, quant: Q4_K_M}}
defaults:
  cuda: {provider: existing, path: /usr/local/cuda-13.0}
  llama_cpp: {ref: b8146}
groups:
  ada:
    gpus: [{name: NVIDIA GeForce RTX 4090, memory: 24564M}]
    servers:
      coder: {model: flash, port: 8888, context: 131072}
hosts:
"""


def fleet(hosts: str, build: str = BUILD) -> Fleet:
    """A fleet with these hosts."""
    return fleet_of(parse_document((build + hosts).encode(), "fleet.yaml"), Path("fleet.yaml"))


def problems(hosts: str, lock: Lock | None = None, build: str = BUILD) -> list[str]:
    """What is refused, a line each."""
    return [str(problem) for problem in check_memory(fleet(hosts, build), lock)]


def test_the_place_the_numbers_and_the_remedies_are_told() -> None:
    (text,) = problems("  a: {groups: [ada]}\n")
    assert text.startswith("fleet.yaml:13:50: hosts.a.servers.coder.context: server coder would")
    assert "on GPU 0 (NVIDIA GeForce RTX 4090), which has 24.0 GiB" in text
    assert "131,072 tokens x 2 in f16 13.2 GiB" in text
    assert "set servers.coder.context to " in text
    assert "with cache_type_k and cache_type_v q8_0" in text
    assert "with servers.coder.n_cpu_moe" in text


def test_what_it_proposes_is_taken() -> None:
    (text,) = problems("  a: {groups: [ada]}\n")
    context = text.partition("servers.coder.context to ")[2].split()[0]
    layers = text.partition("the experts of the first ")[2].split()[0]
    for better in (f"context: {context}", f"n_cpu_moe: {layers}"):
        assert problems(f"  a: {{groups: [ada], servers: {{coder: {{{better}}}}}}}\n") == []


def test_what_many_hosts_share_is_told_once() -> None:
    hosts = "".join(f"  h{number}: {{groups: [ada]}}\n" for number in range(1200))
    (text,) = problems(hosts)
    assert text.endswith("(and on 1,199 more hosts)")


@pytest.mark.parametrize(
    "host",
    [
        "{groups: [ada], gpus: null}",
        "{groups: [ada], gpus: []}",
        "{groups: [ada], gpus: [{memory: 24G, count: 2}]}",
        "{groups: [ada], gpus: [{memory: 24G}, {memory: 8G}]}",
        "{groups: [ada], servers: {coder: {gpus: []}}}",
        "{groups: [ada], servers: {coder: {model: own}}}",
        '{groups: [ada], servers: {coder: {extra_args: ["--n-gpu-layers", "10"]}}}',
        "{groups: [ada], cuda: {provider: none}}",
    ],
    ids=lambda text: text[15:-1],
)
def test_what_fits_or_is_not_known_is_not_refused(host: str) -> None:
    assert problems(f"  a: {host}\n") == []


def test_servers_on_one_card_are_summed_and_a_card_each_is_fine() -> None:
    two = "servers: {coder: {context: 32768%s}, second: {model: flash, port: 8889%s}}"
    (text,) = problems(f"  a: {{groups: [ada], {two % ('', '')}}}\n")
    assert "servers coder, second would need" in text
    apart = two % (", gpus: [0]", ", gpus: [1], context: 32768")
    cards = "gpus: [{memory: 24G, count: 2}]"
    assert problems(f"  a: {{groups: [ada], {cards}, {apart}}}\n") == []


def test_a_gpu_that_the_host_does_not_have_is_named() -> None:
    (text,) = problems("  a: {groups: [ada], servers: {coder: {gpus: [0, 1]}}}\n")
    assert "hosts.a.servers.coder.gpus: there is no GPU 1: the host's gpus are 1" in text


def test_gpus_by_uuid_are_found_and_others_are_left_to_preflight() -> None:
    cards = "gpus: [{memory: 8G, uuid: GPU-a1}, {memory: 24G, uuid: GPU-b2}]"
    server = "servers: {coder: {context: 32768, gpus: [%s]}}"
    (text,) = problems(f"  a: {{groups: [ada], {cards}, {server % 'GPU-a1'}}}\n")
    assert "on GPU 0, which has 8.0 GiB" in text
    for name in ("GPU-b2", "GPU-c3"):
        assert problems(f"  a: {{groups: [ada], {cards}, {server % name}}}\n") == []
    (text,) = problems("  a: {groups: [ada], gpus: [{memory: 8G, count: 2, uuid: GPU-a1}]}\n")
    assert "hosts.a.gpus: a UUID is one GPU's" in text


# The lock ---------------------------------------------------------------------------------------

OWN = "  a: {groups: [ada], servers: {coder: {model: own}}}\n"


def lock_of(found: Fleet, family: str = "qwen3-coder-next") -> Lock:
    """A lock that knows a family's dimensions for the model ``own``."""
    file = Artifact("Own-Q4_K_M.gguf", 1, "0" * 64, url="https://hub.example.com/own.gguf")
    pin = ModelPin(
        model_request(found, "own"), (file,), revision="0" * 40, dimensions=dimensions(family)
    )
    return Lock(models={"own": pin})


def test_the_locks_own_numbers_count_for_any_model() -> None:
    lock = lock_of(fleet(OWN))
    (text,) = problems(OWN, lock)
    assert "own: weights" in text
    assert problems(OWN, lock_of(fleet(OWN), "gpt-oss-20b")) == []


def test_a_pin_of_another_file_is_passed_over() -> None:
    lock = lock_of(fleet(OWN))
    stale = {"own": replace(lock.models["own"], request={"hub": {"repo": "acme/Other"}})}
    assert problems(OWN, Lock(models=stale)) == []


def test_validate_and_converge_refuse_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = BUILD.replace("  flash: {catalogue: glm-4.7-flash}\n", "")
    build = build.replace("  next: {catalogue: qwen3-coder-next}\n", "").replace("flash", "own")
    path = tmp_path / "fleet.yaml"
    path.write_text(build + OWN)
    assert main(["validate", str(path)]) == 0
    locked = fleet(OWN, build)
    source = SourcePin(
        {"repository": "https://github.com/ggml-org/llama.cpp", "ref": "b8146"}, "1" * 40, 8146
    )
    write_lock(path, replace(lock_of(locked), llama_cpp={"b8146": source}))
    capsys.readouterr()
    assert main(["validate", str(path)]) == 1
    err = capsys.readouterr().err
    assert f"{path}:11:48: hosts.a.servers.coder.context: server coder would need" in err
    assert main(["validate", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["problems"][0]["line"]) == (False, 11)
    with pytest.raises(FleetError, match="server coder would need"):
        pyinfra_groups(path)
    write_lock(path, replace(lock_of(locked, "gpt-oss-20b"), llama_cpp={"b8146": source}))
    assert main(["validate", str(path)]) == 0
    assert len(pyinfra_groups(path)["all"]) == 1


def test_a_draft_model_counts_too() -> None:
    server = "    servers: {coder: {context: 65536, parallel: 1%s}}\n"
    hosts = "  a:\n    groups: [ada]\n"
    assert problems(hosts + server % "") == []
    (text,) = problems(hosts + server % ", draft: {model: next}")
    assert "server coder would need" in text
