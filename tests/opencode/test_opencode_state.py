"""What a host's OpenCode is, read from what real hosts answered, and what is refused there.

``recorded/`` holds the output of :class:`facts.opencode.OpenCode` on a Debian 12 host with OpenCode
1.18.33, for the users ``dev`` and ``ghost`` (who has no account): before a converge (absent), after
it (installed, ``opencode.json`` being a link to a file elsewhere in the home), and with a broken
configuration.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from opencode_support import ARTIFACT, KEY, RECORDED, SETTINGS
from pyinfra.api.exceptions import FactProcessError

from deploys.common.files import ManagedFile, is_current
from deploys.common.operations import HostError
from deploys.opencode import refuse, user_files
from deploys.opencode.config import system_config
from deploys.opencode.install import current_manifest, install_job, run_path, run_script
from facts.opencode import OpenCode, OpenCodeState, parse_opencode


def recorded(name: str) -> OpenCodeState:
    return parse_opencode((RECORDED / f"{name}.txt").read_text().splitlines())


def test_a_host_without_opencode_is_empty_but_for_its_users() -> None:
    state = recorded("absent")
    assert dataclasses.replace(state, users={}) == OpenCodeState()
    assert state.users["dev"].home == "/home/dev"
    assert state.users["dev"].config is None


def test_an_account_that_is_missing_is_absent() -> None:
    assert set(recorded("installed").users) == {"dev"}


def test_an_installation_tells_its_manifest_and_where_the_command_leads() -> None:
    state = recorded("installed")
    assert state.link == run_path("1.18.33")
    assert state.manifest == {**current_manifest("1.18.33", ARTIFACT), "size": state.binary_size}


def test_a_linked_configuration_is_read_where_it_really_lies() -> None:
    user = recorded("installed").users["dev"]
    assert user.config_path == "/home/dev/dotfiles/oc.json"
    assert user.config is not None
    assert user.config.content is not None
    assert json.loads(user.config.content)["model"] == "coder/smollm2"


def test_of_a_key_only_the_hash_is_read() -> None:
    key = recorded("installed").users["dev"].secrets[KEY]
    assert (key.mode, key.content, len(key.sha256)) == ("600", None, 64)


@pytest.mark.parametrize("output", [[], ["hello"], ["@@llamaherd:link", "@@llamaherd:user x", ":"]])
def test_output_that_makes_no_sense_fails_the_host_alone(output: list[str]) -> None:
    with pytest.raises(FactProcessError):
        parse_opencode(output)


def test_a_host_in_order_has_nothing_to_do_but_for_its_key() -> None:
    state = recorded("installed")
    refuse(SETTINGS, state)
    files = user_files(SETTINGS, state, {"coder": "generated"})
    current = {file.path: is_current(file, there) for file, there in files.items()}
    assert current == {f"/home/dev/{KEY}": False, "/home/dev/dotfiles/oc.json": True}
    etc = ManagedFile("/etc/opencode/opencode.json", system_config(SETTINGS))
    assert is_current(etc, state.system_config)


def test_a_users_files_are_written_with_that_users_rights() -> None:
    files = user_files(SETTINGS, recorded("absent"), {"coder": "generated"})
    assert [(f.path, f.mode, f.secret, f.as_user) for f in files] == [
        (f"/home/dev/{KEY}", "600", True, "dev"),
        ("/home/dev/.config/opencode/opencode.json", "644", False, "dev"),
    ]


def test_a_configuration_that_its_user_closed_stays_closed() -> None:
    state = recorded("installed")
    user = state.users["dev"]
    assert user.config is not None
    closed = dataclasses.replace(user, config=dataclasses.replace(user.config, mode="600"))
    files = user_files(SETTINGS, dataclasses.replace(state, users={"dev": closed}), {})
    assert [file.mode for file in files] == ["600"]


def test_every_reason_for_a_refusal_is_told_at_once() -> None:
    state = dataclasses.replace(recorded("broken"), link="")
    with pytest.raises(HostError) as caught:
        refuse(dataclasses.replace(SETTINGS, users=("dev", "ghost")), state)
    message = str(caught.value)
    assert "/usr/local/bin/opencode is a file that llamaherd did not make" in message
    assert "/home/dev/dotfiles/oc.json:3:3: not JSON" in message
    assert "no account ghost: create it (useradd --create-home ghost)" in message
    assert "opencode.users" in message


def test_a_command_of_another_installer_is_not_overwritten() -> None:
    state = dataclasses.replace(recorded("absent"), link="/root/.opencode/bin/opencode")
    with pytest.raises(HostError, match=r"a link to /root/\.opencode/bin/opencode"):
        refuse(SETTINGS, state)


def test_a_home_that_does_not_exist_is_named() -> None:
    state = recorded("absent")
    user = dataclasses.replace(state.users["dev"], home_exists=False)
    with pytest.raises(HostError, match="mkhomedir_helper dev"):
        refuse(SETTINGS, dataclasses.replace(state, users={"dev": user}))


def test_the_command_passes_its_arguments_on_and_sets_the_switches(tmp_path: Path) -> None:
    script = run_script("1.18.33").replace("/opt/opencode/1.18.33/opencode", f"{tmp_path}/opencode")
    (tmp_path / "opencode").write_text(
        '#!/bin/sh\nprintf "%s|" "$@"\nprintenv | grep -c ^OPENCODE_DISABLE_.*=1$\n'
        "tr '\\0' '\\n' < /proc/$$/environ | grep ^npm_config\n"
    )
    (tmp_path / "opencode").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script, "opencode", "run", "two words", "--", "$HOME"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert (
        done.stdout
        == "run|two words|--|$HOME|3\nnpm_config_@opencode-ai:registry=file:///dev/null\n"
    )


@pytest.mark.parametrize(
    "script",
    [
        install_job("1.18.33", ARTIFACT).script,
        OpenCode().command("1.18.33", ["dev", "o'neil"], [KEY]),
        run_script("1.18.33"),
    ],
)
def test_scripts_are_good_posix_shell(script: str) -> None:
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_same_version_in_other_bytes_is_another_job() -> None:
    other = dataclasses.replace(ARTIFACT, sha256="0" * 64)
    assert install_job("1.18.33", ARTIFACT).name != install_job("1.18.33", other).name
