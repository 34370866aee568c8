"""docs/troubleshooting/: a page for every component, a line for every message of a failure."""

from __future__ import annotations

import re

import pytest
from converge_support import Site
from messages import ROOT, Message, messages

FOLDER = ROOT / "docs" / "troubleshooting"
PAGES = {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
TEXT = " ".join(" ".join(PAGES.values()).split())
# What has a page of its own: the components of deploy.py, and what isn't one.
COMPONENTS = re.findall(r"^from deploys\.(\w+) import \w+$", (ROOT / "deploy.py").read_text(), re.M)
OTHERS = ("connection", "fleet_file", "drift", "onboarding")


def test_every_component_has_a_page_and_the_index_leads_to_it() -> None:
    assert len(COMPONENTS) >= 8
    index = PAGES["README.md"]
    for name in (*COMPONENTS, *OTHERS):
        page = "drift.md" if name == "drift_timer" else f"{name}.md"
        assert page in PAGES, name
        assert f"]({page})" in index, page
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == set(PAGES) - {"README.md"}


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.place)
def test_every_message_of_a_failure_is_on_a_page(message: Message) -> None:
    found = [piece for piece in message.pieces if piece in TEXT]
    assert found, "put it into docs/troubleshooting/, with why it comes and what mends it"


def test_remedies_of_jobs_and_what_their_scripts_say_are_messages_too() -> None:
    pieces = {piece for message in messages() for piece in message.pieces}
    assert "if a compiler was killed, lower llama_cpp.jobs" in pieces
    assert "redirects in a circle" in pieces
    assert "dpkg can't set up what is half installed" in pieces


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert (FOLDER / target).exists(), target


# What the real llama-server prints for a slip, and what the page quotes of it.
SLIPS = {
    "invalid argument: --no-mmap": "-m {model} --no-mmap",
    'error while handling argument "--cache-type-k": Unsupported cache type: q9': (
        "-m {model} --cache-type-k q9"
    ),
    'error while handling argument "-dev": invalid device: CUDA0': "-m {model} -dev CUDA0",
    "failed to open file '": "-m {model} --api-key-file /nowhere",
    "invalid magic characters: '": "-m /bin/sh",
    "is not within the file bounds, model is corrupted or incomplete": "-m /tmp/cut.gguf",
    "failed to load model": "-m /nowhere.gguf",
    "couldn't bind HTTP server socket, hostname: ": "-m {model} --host 192.0.2.1",
    "failed to load multimodal model": "-m {model} -c 512 --mmproj {model}",
}


@pytest.mark.parametrize("words", SLIPS)
def test_the_page_quotes_it(words: str) -> None:
    quoted = words.replace("--no-mmap", "--flag")
    assert quoted in " ".join(PAGES["llama_server.md"].split())


@pytest.mark.lab
@pytest.mark.parametrize("words", SLIPS)
def test_the_real_server_says_what_the_page_quotes(words: str, site: Site) -> None:
    model = site.lab.run("find /var/lib/llamaherd/models -name '*.gguf'").stdout.strip()
    binary = site.lab.run("ls -d /opt/llama.cpp/*/bin/llama-server").stdout.split()[0]
    site.lab.run(f"head -c 40000000 {model} > /tmp/cut.gguf")
    arguments = SLIPS[words].format(model=model)
    done = site.lab.run(f"timeout 60 {binary} --port 18099 {arguments} 2>&1", check=False)
    assert done.returncode == 1
    assert words in done.stdout
