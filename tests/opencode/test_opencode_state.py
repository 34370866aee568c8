"""What a host's OpenCode is, read from what real hosts answered, and what is refused there.

``recorded/`` holds the output of :class:`facts.opencode.OpenCode` on a Debian 12 host with OpenCode
1.18.33, for the users ``dev`` and ``ghost`` (who has no account): before a converge (absent), after
it (installed, ``opencode.json`` being a link to a file elsewhere in the home), and with a broken
configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
from opencode_support import ARTIFACT, KEY, RECORDED, SETTINGS
from pyinfra.api.exceptions import FactProcessError

from deploys.common.files import ManagedFile, is_current
from deploys.common.operations import HostError
from deploys.opencode import refuse, user_files
from deploys.opencode.config import system_config
from deploys.opencode.install import current_manifest, install_job, run_path, run_script
from facts.files import FileState
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


def opencode_user(**changes: object) -> OpenCodeState:
    """The recorded host in order, but for its user's files."""
    state = recorded("installed")
    user = dataclasses.replace(state.users["dev"], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(state, users={"dev": user})


def file_state(path: str, text: str, user: str = "dev") -> FileState:
    content = text.encode()
    return FileState(path, "file", "644", user, user, hashlib.sha256(content).hexdigest(), content)


JSON, JSONC = (
    "/home/dev/.config/opencode/opencode.json",
    "/home/dev/.config/opencode/opencode.jsonc",
)
COMMENTED = '{\n  // mine\n  "theme": "x", // too\n}\n'


def test_a_file_with_comments_gets_our_values_and_keeps_them() -> None:
    state = opencode_user(config_path=JSON, config=file_state(JSON, COMMENTED))
    (file,) = user_files(SETTINGS, state, {})
    assert file.path == JSON
    assert file.content.startswith(
        '{\n  "$schema": "https://opencode.ai/config.json",\n  // mine\n'
    )
    assert '\n  "theme": "x", // too\n  "model": "coder/smollm2",\n' in file.content


def test_an_opencode_jsonc_alone_is_the_file_that_is_edited() -> None:
    jsonc = file_state(JSONC, COMMENTED)
    state = opencode_user(config_path=JSON, config=None, jsonc_path=JSONC, jsonc=jsonc)
    (file,) = user_files(SETTINGS, state, {})
    assert file.path == JSONC
    assert "// too" in file.content
    assert "http://127.0.0.1:8888/v1" in file.content


def test_of_two_files_the_one_that_wins_must_not_contradict_and_gets_nothing_else() -> None:
    theirs = (
        '{\n  "provider": {\n    // ours, elsewhere\n'
        '    "coder": {"options": {"baseURL": "http://old/v1", "timeout": 5}}\n  }\n}\n'
    )
    state = opencode_user(jsonc_path=JSONC, jsonc=file_state(JSONC, theirs))
    files = {file.path: file.content for file in user_files(SETTINGS, state, {})}
    assert list(files) == ["/home/dev/dotfiles/oc.json", JSONC]
    assert files[JSONC] == theirs.replace("http://old/v1", "http://127.0.0.1:8888/v1")
    harmless = opencode_user(jsonc_path=JSONC, jsonc=file_state(JSONC, COMMENTED))
    assert {f.path: f.content for f in user_files(SETTINGS, harmless, {})}[JSONC] == COMMENTED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": file_state("/home/dev/dotfiles/oc.json", "{}", "root")},
            "/home/dev/dotfiles/oc.json belongs to root, .* run chown dev /home/dev/dotfiles/oc",
        ),
        (
            {
                "config": file_state("/home/dev/dotfiles/oc.json", "{}"),
                "closed": ("/home/dev/dotfiles/oc.json",),
            },
            r"dev may not write /home/dev/dotfiles/oc.json: make its folder .*chown dev\)",
        ),
    ],
)
def test_a_file_that_the_user_may_not_write_is_refused_before_anything_changes(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(HostError, match=message):
        refuse(SETTINGS, opencode_user(**changes))


def test_a_foreign_file_that_needs_no_change_is_left_in_peace() -> None:
    user = recorded("installed").users["dev"]
    assert user.config is not None
    foreign = dataclasses.replace(user.config, user="root")
    refuse(SETTINGS, opencode_user(config=foreign, closed=(user.config_path,)))


@pytest.mark.parametrize(
    ("path", "owner", "text", "whose"),
    [
        ("/etc/shadow", "root", None, "which belongs to root"),
        ("/etc/hosts", "root", "127.0.0.1 localhost\n", "which belongs to root"),
        ("/home/other/.config/opencode/opencode.json", "other", "{}", "which belongs to other"),
        ("/root/new.json", "", None, "which may not be written"),
    ],
)
def test_no_advice_is_given_on_what_a_link_leads_to_out_of_the_home(
    path: str, owner: str, text: str | None, whose: str
) -> None:
    there = file_state(path, text or "", owner) if owner else None
    if there is not None and text is None:
        there = dataclasses.replace(there, sha256="", content=None)
    state = opencode_user(config_path=path, config=there, closed=(path,), outside=(path,))
    with pytest.raises(HostError) as caught:
        refuse(SETTINGS, state)
    assert str(caught.value) == (
        f"a link in the home of dev leads to {path}, {whose}: remove that link, "
        "or take dev out of opencode.users"
    )


@pytest.mark.parametrize(("text", "named"), [('{"mcp": {}}', None), ('{"model": "x/y"}', "model")])
def test_a_further_system_file_may_add_settings_but_not_change_ours(
    text: str, named: str | None
) -> None:
    path = "/etc/opencode/opencode.jsonc"
    override = file_state(path, f"// the site's\n{text}", "root")
    state = dataclasses.replace(recorded("installed"), system_override=override)
    if named is None:
        refuse(SETTINGS, state)
        return
    with pytest.raises(HostError, match=f"{path} sets {named} over llamaherd's"):
        refuse(SETTINGS, state)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another's rights")
def test_both_files_and_what_the_user_may_not_write_are_read_off_a_real_home() -> None:
    """The fact's own command, for the account ``nobody`` with a home of its own."""
    home = Path(subprocess.check_output(["mktemp", "-d", "-p", "/var/tmp"], text=True).strip())
    try:
        folder = home / ".config" / "opencode"
        folder.mkdir(parents=True)
        for path in (home, home / ".config", folder):
            path.chmod(0o755)
        (folder / "opencode.json").write_text("{}")
        (folder / "opencode.jsonc").write_text("// c\n{}")
        (home / "getent").write_text(f"#!/bin/sh\necho nobody:x:1:1::{home}:/bin/sh\n")
        (home / "getent").chmod(0o755)
        ask = partial(
            subprocess.run,
            ["sh", "-c", OpenCode().command("1.18.33", ["nobody"], [KEY])],
            env={"PATH": f"{home}:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        done = ask()
        user = parse_opencode(done.stdout.splitlines()).users["nobody"]
        assert user.config is not None
        assert user.jsonc is not None
        assert (user.config_path, user.config.content) == (f"{folder}/opencode.json", b"{}")
        assert (user.jsonc_path, user.jsonc.content) == (f"{folder}/opencode.jsonc", b"// c\n{}")
        assert user.closed == (user.config_path, user.jsonc_path, f"{home}/{KEY}")
        assert user.outside == ()
        (folder / "opencode.json").unlink()
        (folder / "opencode.json").symlink_to("/etc/shadow")
        user = parse_opencode(ask().stdout.splitlines()).users["nobody"]
        assert user.config is not None
        assert (user.config.user, user.config.content) == ("root", None)
        assert user.outside == ("/etc/shadow",)
        (folder / "opencode.json").unlink()
        (folder / "opencode.json").write_text("{}")
        (folder / "opencode.jsonc").unlink()
        (folder / "opencode.jsonc").symlink_to("opencode.json")
        done = ask()
        user = parse_opencode(done.stdout.splitlines()).users["nobody"]
        assert (user.jsonc_path, user.jsonc) == ("", None)
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)
