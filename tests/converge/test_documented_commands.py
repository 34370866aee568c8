"""Every command that README.md and the pages below docs/ show is one that works.

A command is run here, against one lab host that all of them share, or another test runs it, or it
is another program's on a machine that tests don't have. A command that is in none of the three
tables fails: map it. Outputs aren't compared, exit statuses are.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from converge_support import BIN, PROJECT, Site
from documented import Command, commands_of, shown

from llamaherd.cli import COMMANDS, build_parser

COMMANDS_SHOWN = shown()


@dataclass(frozen=True)
class Run:
    """A command that is run here.

    + words: what is typed instead, word for word: names of the page's hosts and files
    + more: words that go to its end
    + typed: its standard input
    + on_host: it is typed on the host, as root
    """

    words: tuple[tuple[str, str], ...] = ()
    more: tuple[str, ...] = ()
    typed: str = ""
    on_host: bool = False


@dataclass(frozen=True)
class By:
    """A command that another test runs: its program, subcommand and options stand in that file.

    + test: ``PATH::NAME``, a test or the function that tests call; ``PATH`` alone for a playbook
    + but: words of the page's command that the test types otherwise
    """

    test: str
    but: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """Another program's, and why no test can run it."""

    reason: str


# What the pages call the lab host's things.
NAMES = (
    *(("my-fleet.yaml", "{fleet}"), ("inventories/fleet.yaml", "{folder}/catalogue.yaml")),
    *(("gpu-01", "box"), ("inventory.py", "{project}/inventory.py")),
    *(("deploy.py", "{project}/deploy.py"), ("HOST", "{alias}"), ("cp", "cp")),
)
DATA = ("--data", "ssh_config_file={ssh_config}")
FACT = Run((("gpu-01", "{alias}"),), DATA)

DEMO = By("tests/lab/test_demo.py::test_the_demo_does_the_whole_job")
LAB = "tests/lab/test_lab.py::"
RELEASES = "tests/servers/test_releases_lab.py::"
TIMER = "tests/drift_timer/test_drift_timer_lab.py::"
ONBOARD = "tests/onboard/test_onboard_lab.py::"
WRITE = By(
    "tests/onboard/test_write_lab.py::test_a_bare_box_serves_and_opencode_answers_after_one_command"
)
OFFERS = By(
    "molecule/default/tests/test_default.py::"
    "test_opencode_offers_our_provider_alone_and_a_user_cannot_change_that"
)
FIT = "tests/sizing/test_fit_command.py::"
LOCK = "tests/lock/test_lock_command.py::"
BOXES = By(f"{ONBOARD}test_cards_in_all_conditions")
CONTACT = f"{ONBOARD}test_first_contact_by_password_leaves_key_and_user_once"
PROMPT = By("molecule/default/tests/test_default.py::test_opencode_answers_a_prompt")

# By pattern, the first that fits the whole command.
HOW: tuple[tuple[str, Run | By | Foreign], ...] = (
    # The fleet file
    (r"llamaherd validate( \S+)?", Run()),
    (r"llamaherd show gpu-01 my-fleet.yaml --origin", Run()),
    (r"llamaherd lock( my-fleet.yaml)?", Run()),
    (r"llamaherd lock --update \S+", By(f"{LOCK}test_a_pin_stays_until_it_is_updated")),
    (r"llamaherd models", Run()),
    (r"llamaherd plan", Run()),
    (r"llamaherd prune", Run()),
    (
        r"llamaherd prune .*--yes",
        By(
            "tests/prune/test_prune_lab.py::test_what_no_release_uses_any_more_goes_and_nothing_else"
        ),
    ),
    (r"llamaherd rollback .*", By(f"{RELEASES}test_rollback_swaps_the_two_and_goes_back_again")),
    (r"llamaherd models --about NAME", Run((("NAME", "glm-4.7-flash"),))),
    (
        r"cp inventories/example.yaml \S+",
        Run((("inventories/fleet.yaml", "{folder}/copied.yaml"),)),
    ),
    # Converge and what comes after it
    (r"(FLEET=my-fleet.yaml )?pyinfra inventory.py deploy.py", Run(typed="y\n")),
    (r"pyinfra inventory.py deploy.py (-y|--dry)", Run(typed="y\n")),
    (r"pyinfra inventory.py deploys.models.models", Run(typed="y\n")),
    (r"pyinfra (gpu-01|HOST) fact facts\.\w+\.\w+", FACT),
    (r"llamaherd verify", Run()),
    (r"llamaherd drift( my-fleet.yaml)?", Run()),
    (r"llamaherd drift my-fleet.yaml .*", Run()),
    (r"opencode run '.*'", PROMPT),
    (r"opencode debug config", OFFERS),
    # Shown because it fails, where it is typed.
    (
        r"runuser -u dev opencode",
        Run(
            (("runuser -u dev opencode", "cd /root; ! runuser -u dev opencode models"),),
            on_host=True,
        ),
    ),
    (r"llamaherd drift --deep", Run()),
    # On a host
    (r"journalctl -u llama-server@NAME", Run((("NAME", "coder"),), on_host=True)),
    (r"systemctl list-units 'llamaherd-\*'", Run(on_host=True)),
    (
        r"systemctl stop llamaherd-NAME",
        Run(
            (("systemctl", "systemd-run --unit=llamaherd-NAME sleep 99; systemctl"),), on_host=True
        ),
    ),
    (
        r"llama-server --list-devices",
        Run(
            (("llama-server", "$(ls -d /opt/llama.cpp/*/bin/llama-server | head -n 1)"),),
            on_host=True,
        ),
    ),
    (r"useradd --create-home NAME", Run((("NAME", "documented"),), on_host=True)),
    (r"systemd-analyze calendar '...'", Run((("'...'", "daily"),), on_host=True)),
    # The scheduled check
    (r"systemctl start llamaherd-drift.service", By(f"{TIMER}check")),
    (
        r"runuser -u llamaherd-drift .*",
        By(f"{TIMER}test_the_history_on_the_controller_tells_all_of_it"),
    ),
    (r"journalctl -u llamaherd-drift.service", By(f"{TIMER}log")),
    (
        r"systemctl .* ?llamaherd-drift.*",
        By(f"{TIMER}test_what_the_page_says_to_type_on_the_controller"),
    ),
    # Sizing
    (r"llamaherd fit glm-4.7-flash --vram 24G", Run()),
    (r"llamaherd fit coder-model .*", Run()),
    (r"llamaherd fit --all .*", Run()),
    (
        r"llamaherd fit \./model-00001-of-00003.gguf .*",
        By(f"{FIT}test_all_files_of_a_split_model_count"),
    ),
    (r"llamaherd fit unsloth/.*", By(f"{FIT}test_the_hub_answers_for_whole_and_split_models")),
    # New boxes
    (r"llamaherd onboard --write", WRITE),
    (r"llamaherd onboard --all-fits", By(f"{ONBOARD}test_every_model_on_the_cards_when_asked")),
    (r"llamaherd onboard \S+ --no-bandwidth", By("tests/onboard/dressed_box.py::llamaherd")),
    (r"llamaherd onboard( \S+)? --json", By("tests/onboard/dressed_box.py::look")),
    (r"llamaherd onboard( \S+)?", BOXES),
    (
        r"llamaherd onboard (ops@\S+ ops@\S+|--list boxes.txt)",
        By(f"{ONBOARD}test_several_boxes_are_shown_side_by_side"),
    ),
    # A password that is asked for needs a terminal: tests have it read from the environment.
    (r"llamaherd onboard \S+ --password prompt --install-key", By(CONTACT, but=("prompt",))),
    (r"llamaherd onboard \S+ --create-user herder", By(CONTACT)),
    (r"llamaherd onboard \S+ --fleet fleet.yaml --write( --converge)?", WRITE),
    # The lab and the project itself
    (r"make demo( KEEP=1)?", DEMO),
    (r"make [a-z-]+( BINARY=\S+)?", Run((("make", "make --dry-run"),))),
    (
        r"python molecule/lab/lab.py list",
        Run((("molecule/lab/lab.py", "{project}/molecule/lab/lab.py"),)),
    ),
    (
        r"python molecule/lab/lab.py (create|destroy) NAME.*",
        By(f"{LAB}test_a_destroyed_lab_leaves_nothing"),
    ),
    (
        r"python molecule/lab/lab.py exec NAME.*",
        By(f"{LAB}test_exec_passes_words_and_the_exit_code_on"),
    ),
    (
        r"python molecule/lab/lab.py restart NAME",
        By(f"{LAB}test_a_restart_keeps_files_and_forgets_processes"),
    ),
    (r"python molecule/lab/lab.py hub NAME", By("molecule/default/prepare.yml")),
    (
        r"ssh -F .lab/NAME/ssh_config llamaherd-NAME",
        Run(((".lab/NAME/ssh_config", "{ssh_config}"), ("llamaherd-NAME", "{alias}")), ("true",)),
    ),
    (r"pip install -e \.", Run(((".", "{project}"),), ("--dry-run", "--no-deps", "--quiet"))),
    (
        r"npm install --global yaml-language-server@.*",
        By("tests/editor/language_server.py::installed", but=("--global",)),
    ),
    (r"hx --health yaml", Foreign("an editor of the user's")),
    (r"molecule \w+ -s debian13", By("tests/lab/test_scenarios.py::test_scenario")),
    # A machine with a GPU and its driver
    (r"nvidia-smi (-L|-i N -mig 0)", Foreign("the NVIDIA driver's")),
    (r"(nvidia-smi|curl) exited \d+.*", Foreign("words of a message, no command")),
    (r"(dkms status|apt-mark hold|dmesg \| grep -i nvidia)", Foreign("of a host with the driver")),
    (r"(update-initramfs -u|mokutil .*|modprobe .*)", Foreign("of a host with the driver")),
    (r"systemctl stop 'llama-server@\*'", Foreign("ends every server of a host with the driver")),
    (r"(apt-get update|dpkg --configure -a)", Run(on_host=True)),
    (r"chattr \+i", Run(more=("/etc/hostname; chattr -i /etc/hostname",), on_host=True)),
    (
        r"chattr -i FILE",
        Run((("chattr", "chattr +i /etc/issue; chattr"), ("FILE", "/etc/issue")), on_host=True),
    ),
    (r"mount -o remount,rw", Run(more=("/run",), on_host=True)),
    (r"llama-fit-params --fit-print on", By("benchmarks/fit.py::ask")),
    (r"ausearch -m AVC -ts recent", Foreign("of a host with SELinux in force")),
    (r"timedatectl set-ntp true", Foreign("sets a real machine's clock")),
    (
        r"chown NAME( FILE)?",
        Run((("NAME", "dev"), ("FILE", "")), ("/tmp/documented",), on_host=True),
    ),
    (r"claude code", Foreign("the program's name in a sentence")),
    (r"npm install @opencode-ai/plugin@.*", Foreign("what OpenCode itself runs")),
    (r"tar -tf", Foreign("an option of tar, named in a sentence")),
    (r"ssh(-keygen)? -[a-zA-Z]", Foreign("an option of OpenSSH, named in a sentence")),
    (r"llamaherd fit MODEL", Run((("MODEL", "glm-4.7-flash"),))),
    (r"llamaherd fit", Foreign("the command's name in a sentence")),
)


def how(command: str) -> Run | By | Foreign | None:
    """What is done about a command; None for one that nobody has mapped."""
    return next((found for pattern, found in HOW if re.fullmatch(pattern, command)), None)


def parameters(kind: type[Any]) -> list[Any]:
    """The commands with that treatment, each once, as a test's parameters."""
    texts = dict.fromkeys(command.text for command in COMMANDS_SHOWN)
    return [pytest.param(text, id=text) for text in texts if isinstance(how(text), kind)]


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS_SHOWN) > 60
    assert {command.page for command in COMMANDS_SHOWN} >= {"README.md", "docs/drift.md"}


@pytest.mark.parametrize("command", COMMANDS_SHOWN, ids=lambda each: f"{each.page}: {each.text}")
def test_every_command_is_run_somewhere(command: Command) -> None:
    assert how(command.text) is not None, "map it in HOW: run it here, or name the test that does"


def test_no_line_of_the_table_is_left_over() -> None:
    texts = {command.text for command in COMMANDS_SHOWN}
    idle = [pattern for pattern, _ in HOW if not any(re.fullmatch(pattern, t) for t in texts)]
    assert idle == []


@pytest.mark.parametrize("text", parameters(By))
def test_the_named_test_is_there(text: str) -> None:
    treatment = how(text)
    assert isinstance(treatment, By)
    path, _, name = treatment.test.partition("::")
    source = (PROJECT / path).read_text("utf-8")
    if name:
        tree = ast.parse(source)
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    missing = [word for word in program_words(text) if word not in source]
    assert missing == list(treatment.but), "that file runs another command"


def program_words(text: str) -> list[str]:
    """Program, subcommands and options of a command, without what the reader chooses.

    Of a script only its name, whoever runs it; names of units are constants of ours in tests.
    """
    words = [word.partition("=")[0] for word in shlex.split(re.sub(r"\[.*?\]", "", text))]
    names = [word.rpartition("/")[2] for word in words if word != "python" or len(words) == 1]
    return [
        name
        for name in names
        if re.fullmatch(r"--?[a-z-]+|[a-z][a-z-]*(\.py)?", name) and name != "--"
    ]


def test_what_the_reader_chooses_is_no_word_of_the_program() -> None:
    assert program_words("python a/lab.py exec NAME [--user USER] -- COMMAND ...") == [
        *("lab.py", "exec")
    ]
    assert program_words("FLEET=x.yaml llamaherd fit ./m.gguf --vram 24G") == [
        *("llamaherd", "fit", "--vram")
    ]


LLAMAHERD = sorted({c.text for c in COMMANDS_SHOWN if re.match(r"llamaherd \w+", c.text)})


@pytest.mark.parametrize("text", LLAMAHERD)
def test_the_command_line_takes_it(text: str) -> None:
    words = shlex.split(text)[1:]
    assert words[0] in COMMANDS
    # `llamaherd fit` alone, in a sentence, is the name of the command.
    if words not in (["fit"], ["onboard"]):
        assert build_parser((words[0],)).parse_args(words).func


def test_commands_are_found_in_every_form() -> None:
    page = (
        "Run `llamaherd lock --update x` or `llamaherd`.\n\n    llamaherd drift a  # why\n\n"
        "```console\nsystemctl start a \\\n    b\n```\n\n```text\n$ opencode run 'x'\nanswer\n```\n"
    )
    assert sorted(commands_of(page)) == [
        "llamaherd drift a",
        "llamaherd lock --update x",
        "opencode run 'x'",
        "systemctl start a b",
    ]


@pytest.fixture(scope="module")
def place(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path]:
    """The host in order, and a folder to type commands in."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "catalogue.yaml").write_text(
        "version: 1\nmodels:\n  coder-model: {catalogue: glm-4.7-flash}\nhosts: {box: }\n"
    )
    (folder / "inventories").mkdir()
    (folder / "inventories/example.yaml").symlink_to(PROJECT / "inventories/example.yaml")
    (folder / "Makefile").symlink_to(PROJECT / "Makefile")
    (folder / "pyproject.toml").symlink_to(PROJECT / "pyproject.toml")
    assert site.converge().returncode == 0
    site.lab.run("touch /tmp/documented")
    return site, folder


@pytest.mark.lab
@pytest.mark.parametrize("text", parameters(Run))
def test_the_command_does_what_the_page_says(text: str, place: tuple[Site, Path]) -> None:
    site, folder = place
    treatment = how(text)
    assert isinstance(treatment, Run)
    line = typed(text, treatment, place)
    if treatment.on_host:
        done = site.lab.run(line, check=False)
    else:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=site.environment
            | {"FLEET": str(site.fleet), "PATH": f"{BIN}:{os.environ['PATH']}"}
            | {"XDG_STATE_HOME": str(folder / "state")},
            input=treatment.typed,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def typed(text: str, treatment: Run, place: tuple[Site, Path]) -> str:
    """A page's command with the lab's names in it."""
    site, folder = place
    names = {
        "fleet": site.fleet,
        "folder": folder,
        "project": PROJECT,
        "alias": site.lab.alias,
        "ssh_config": site.lab.ssh_config,
    }
    for shown_name, meant in (*treatment.words, *NAMES):
        pattern = rf"(?<![\w./-]){re.escape(shown_name)}(?![\w/-])"
        text = re.sub(pattern, meant.format(**names).replace("\\", "\\\\"), text)
    return " ".join([text, *(word.format(**names) for word in treatment.more)])
