"""What goes and what stays: the host's own scripts, on folders laid down like a host's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prune_support import (
    DIRECTORY,
    MODEL,
    MODELS,
    REVISION,
    SETTINGS,
    Sandbox,
    declared_build,
    folder,
)

from deploys.prune.removal import RefusedError
from deploys.prune.unused import Item, UnknownNeedsError, judge
from inventories.settings import Artifact, CudaSettings

OLD = "b8000-1111111-aaaaaaaaaaaa"
OTHER = "b8001-2222222-bbbbbbbbbbbb"
OLD_MODEL = f"{MODELS}/unsloth/GLM/{'1' * 40}/m.gguf"


@pytest.fixture
def host(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def unused(host: Sandbox, settings=SETTINGS) -> dict[str, str]:
    return {item.path: item.kind for item in host.judge(settings).unused}


def kept(host: Sandbox, settings=SETTINGS) -> dict[str, str]:
    return {item.path: item.why for item in host.judge(settings).kept}


def test_an_empty_host_has_nothing(host: Sandbox) -> None:
    judgement = host.judge()
    assert judgement.unused == judgement.kept == ()


def test_what_nothing_needs_goes_and_everything_that_something_needs_stays(host: Sandbox) -> None:
    new = host.build(declared_build(host.look().system))
    old, previous, staged = host.build(OLD), host.build(OTHER), host.build("b2-x-1")
    model, revision = host.model(f"{DIRECTORY}/m.gguf"), host.model(OLD_MODEL)
    first, second = host.opencode("1.18.33"), host.opencode("1.18.30")
    host.release("coder", "current", new, model)
    host.release("coder", "previous", previous)
    host.release("coder", "next", staged)
    judgement = host.judge()
    goes = {old: "build", revision: "model", second: "opencode"}

    assert {item.path: item.kind for item in judgement.unused} == goes
    assert {item.path: item.why for item in judgement.kept} == {
        new: "the current release of server coder",
        previous: "the previous release of server coder",
        staged: "a staged release of server coder",
        model: "the current release of server coder",
        first: "the locked version",
    }
    assert host.remove(judgement.unused) == dict.fromkeys(goes, "")
    assert not any(map(host.there, goes))
    assert not host.there(folder(revision))
    assert all(map(host.there, (new, previous, staged, model, first, MODELS)))
    assert host.judge().unused == ()


def test_what_is_declared_and_never_served_yet_stays(host: Sandbox) -> None:
    new = host.build(declared_build(host.look().system))
    model = host.model(f"{DIRECTORY}/m.gguf")
    assert unused(host) == {}
    assert kept(host) == {new: "declared", model: "model glm of the host"}


NOT_OURS = {
    "no manifest": ("rm", "manifest.json"),
    "another's manifest": ("name", "b1-other"),
    "a stranger's file beside the programs": ("add", "bin/notes.txt"),
    "a stranger's file in the folder": ("add", "notes.txt"),
    "a program in a program's place": ("replace", "bin/llama-server"),
    "a link in a program's place": ("link", "bin/llama-server"),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_build_that_isnt_ours_beyond_doubt_stays_whole(host: Sandbox, name: str) -> None:
    how, what = NOT_OURS[name]
    path = host.build(OLD)
    if how == "rm":
        host.at(f"{path}/{what}").unlink()
    elif how == "name":
        host.write(f"{path}/manifest.json", json.dumps({"name": what}))
    elif how == "add":
        host.write(f"{path}/{what}")
    elif how == "replace":
        host.write(f"{path}/{what}", "another program")
    else:
        host.at(f"{path}/{what}").unlink()
        host.at(f"{path}/{what}").symlink_to("/bin/sh")

    assert unused(host) == {}
    assert "isn't" in kept(host)[path] or "not ours" in kept(host)[path]


def test_a_link_in_a_builds_place_is_not_followed(host: Sandbox) -> None:
    elsewhere = host.build(OLD)
    host.at("/srv").mkdir()
    host.at(elsewhere).rename(host.at(f"/srv/{OLD}"))
    host.at(elsewhere).symlink_to(host.at(f"/srv/{OLD}"))
    assert unused(host) == {}
    assert host.there(f"/srv/{OLD}/manifest.json")


def test_a_file_of_a_stranger_beside_a_model_stays_with_its_folder(host: Sandbox) -> None:
    model = host.model(OLD_MODEL)
    theirs = host.write(f"{folder(OLD_MODEL)}/theirs.gguf", "mine")
    judgement = host.judge()

    assert [item.path for item in judgement.unused] == [model]
    assert host.remove(judgement.unused) == {model: ""}
    assert host.there(theirs)
    assert not host.there(model)
    assert not host.there(f"{folder(OLD_MODEL)}/.verified")


def test_a_model_that_was_replaced_since_it_was_verified_isnt_ours(host: Sandbox) -> None:
    host.model(OLD_MODEL)
    host.write(OLD_MODEL, "somebody else's")
    assert unused(host) == {}


def test_a_model_with_another_name_elsewhere_frees_nothing(host: Sandbox) -> None:
    host.model(OLD_MODEL)
    host.at("/srv").mkdir()
    os.link(host.at(OLD_MODEL), host.at("/srv/blob"))
    (item,) = host.judge().unused
    assert (item.size, "another name" in item.why) == (0, True)
    assert host.remove((item,)) == {OLD_MODEL: ""}
    assert host.at("/srv/blob").read_text() == "weights"


LEFT_OVER = f"{MODELS}/unsloth/GLM/{'2' * 40}/big.gguf.part"


def test_leftovers_of_ours_go_and_what_a_converge_goes_on_with_stays(host: Sandbox) -> None:
    name = declared_build(host.look().system)
    mine = host.write(f"/opt/llama.cpp/.work-{name}/source/CMakeLists.txt")
    cut = host.write("/opt/llama.cpp/.work-b1-old-1/build/a/b.o")
    part = host.write(f"{DIRECTORY}/m.gguf.part")
    left = host.write(LEFT_OVER)
    theirs = host.write(f"{MODELS}/mine.part")
    coming = host.write(f"/opt/opencode/.incoming/{'c' * 16}/opencode.tgz.part")
    gone = host.write(f"/opt/opencode/.incoming/{'e' * 16}/opencode.tgz.part")
    upload = host.write(f"/var/lib/llamaherd/uploads/{'b' * 64}")
    judgement = host.judge()
    goes = {"/opt/llama.cpp/.work-b1-old-1", left, folder(gone), upload}

    assert {item.path for item in judgement.unused} == goes
    assert set(host.remove(judgement.unused).values()) == {""}
    assert all(map(host.there, (mine, part, theirs, coming)))
    assert not any(map(host.there, (cut, left, gone, upload)))


def test_an_upload_that_a_setting_still_wants_stays(host: Sandbox) -> None:
    file = Artifact("m.gguf", 4, "b" * 64, path="/models/m.gguf")
    settings = replace(SETTINGS, models=(replace(MODEL, files=(file,)),))
    upload = host.write(f"/var/lib/llamaherd/uploads/{'b' * 64}")
    assert unused(host, settings) == {}
    assert kept(host, settings)[upload] == "the next converge goes on with it"


@pytest.fixture
def process(host: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has a model file open, and an old build's program on its command line."""
    host.build(OLD)
    host.model(OLD_MODEL)
    program = "import sys, time; f = open(sys.argv[1]); print(flush=True); time.sleep(600)"
    running = subprocess.Popen(
        [
            sys.executable,
            *("-c", program, host.at(OLD_MODEL), host.at(f"/opt/llama.cpp/{OLD}/bin/llama-server")),
        ],
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    running.stdout.readline()
    yield running
    running.kill()
    running.wait()


def test_what_a_process_has_in_use_stays(host: Sandbox, process: subprocess.Popen[bytes]) -> None:
    who = f"process {process.pid}"
    assert kept(host) == {f"/opt/llama.cpp/{OLD}": who, OLD_MODEL: who}
    assert unused(host) == {}


def test_what_came_into_use_since_the_look_is_left(host: Sandbox) -> None:
    build, model = host.build(OLD), host.model(OLD_MODEL)
    items = host.judge().unused
    host.release("coder", "current", build)
    with host.at(model).open():
        left = host.remove(items)
    assert left == {build: "it has come into use", model: "it has come into use"}
    assert host.there(f"{build}/bin/llama-server")
    assert host.there(model)


def test_what_was_changed_since_the_look_is_left(host: Sandbox) -> None:
    build, model = host.build(OLD), host.model(OLD_MODEL)
    items = host.judge().unused
    host.write(f"{build}/bin/llama-server", "another program")
    host.at(model).unlink()
    host.at(model).symlink_to("/etc/hostname")
    left = host.remove(items)
    assert "has changed since the look before" in left[build]
    assert "has changed since the look before" in left[model]
    assert host.there(f"{build}/bin/llama-server")


def test_no_link_on_the_way_is_followed(host: Sandbox) -> None:
    model = host.model(OLD_MODEL)
    (item,) = host.judge().unused
    host.at("/srv").mkdir()
    host.at(f"{MODELS}/unsloth").rename(host.at("/srv/unsloth"))
    host.at(f"{MODELS}/unsloth").symlink_to(host.at("/srv/unsloth"))
    assert "has changed" in host.remove((item,))[model]
    assert host.there(model)


@pytest.mark.parametrize(
    "text",
    [
        "[Service]\nExecStart={build}/bin/llama-server --model {model} --port 1\n",
        '[Service]\nExecStart="{build}/bin/llama-server" --model "{model}"\n',
        "[Service]\nExecStart={build}/bin/llama-server\nEnvironment=LLAMA_ARG_MODEL={model}\n",
    ],
)
def test_what_a_unit_file_names_stays_whoever_wrote_it(host: Sandbox, text: str) -> None:
    build, model = host.build(OLD), host.model(OLD_MODEL)
    unit = "/etc/systemd/system/mine.service"
    host.write(unit, text.format(build=host.at(build), model=host.at(model)))
    assert kept(host) == {build: unit, model: unit}


def test_the_version_that_the_command_leads_to_stays(host: Sandbox) -> None:
    old = host.opencode("1.18.30")
    host.write("/usr/local/bin/x")
    host.at("/usr/local/bin/opencode").symlink_to(host.at(f"{old}/run"))
    assert kept(host) == {old: "the command opencode leads there"}


def test_a_job_that_runs_keeps_everything(host: Sandbox) -> None:
    host.build(OLD)
    items = host.judge().unused
    host.jobs = "llamaherd-drift.service loaded active running\n"
    assert host.look().jobs == ()
    host.jobs += "llamaherd-model-1.service loaded active running llamaherd: fetching\n"
    assert host.look().jobs == ("llamaherd-model-1",)
    with pytest.raises(RefusedError, match="a job runs there: llamaherd-model-1"):
        host.remove(items)
    assert host.there(f"/opt/llama.cpp/{OLD}/manifest.json")


def test_nothing_is_judged_where_a_releases_list_cant_be_read(host: Sandbox) -> None:
    host.build(OLD)
    host.release("coder", "previous", "/opt/llama.cpp/b1")
    host.at("/var/lib/llamaherd/releases/coder/hash-previous/uses").unlink()
    with pytest.raises(UnknownNeedsError, match="the previous release of server coder uses can't"):
        host.judge()


def test_nothing_is_judged_without_roots_rights(host: Sandbox) -> None:
    holdings = host.look()
    seen = replace(holdings, system=replace(holdings.system, root=False))
    with pytest.raises(UnknownNeedsError, match="no root rights as root"):
        judge(SETTINGS, seen)


def test_no_build_goes_where_the_declared_one_cant_be_told(host: Sandbox) -> None:
    build = host.build(OLD)
    settings = replace(SETTINGS, cuda=CudaSettings("existing", path="/usr/local/cuda"))
    assert unused(host, settings) == {}
    assert "can't be told" in kept(host, settings)[build]


def test_a_removal_that_was_cut_off_goes_on(host: Sandbox) -> None:
    build = host.build(OLD, ("llama-server", "llama-cli"))
    host.at(f"{build}/bin/llama-cli").unlink()
    (item,) = host.judge().unused
    assert host.remove((item,)) == {build: ""}
    assert not host.there(build)


def test_names_with_spaces_and_shell_words_are_names(host: Sandbox) -> None:
    odd = host.model(f"{MODELS}/a/b/{'3' * 40}/$(touch x) 'y'.gguf")
    used = host.model(f"{MODELS}/a/b/{REVISION}/in use.gguf")
    unit = f'[Service]\nExecStart=x "{host.at(used)}"\n'
    host.write("/etc/systemd/system/a.service", unit)
    judgement = host.judge()
    assert [item.path for item in judgement.unused] == [odd]
    assert host.remove(judgement.unused) == {odd: ""}
    assert host.there(used)


@pytest.mark.parametrize(
    "path",
    [
        "/srv/stranger",
        "/opt/stranger",
        "/opt/llama.cpp",
        f"{MODELS}/../../../../srv/stranger",
        f"{MODELS}//x/../../../../../srv/stranger",
    ],
)
def test_the_host_itself_refuses_what_lies_elsewhere(host: Sandbox, path: str) -> None:
    host.write("/srv/stranger")
    host.write("/opt/stranger")
    host.model(OLD_MODEL)
    entry = host.look().entries[OLD_MODEL]
    items = (
        Item("model", path, 1, "", files=((path, entry),), folders=(folder(path),)),
        Item("work", path, 1, "", tree=True),
    )
    assert "has changed" in host.remove(items)[path]
    assert all(map(host.there, ("/srv/stranger", "/opt/stranger", OLD_MODEL)))


def test_a_name_that_would_be_two_lines_is_refused(host: Sandbox) -> None:
    with pytest.raises(ValueError, match="control character"):
        host.remove((Item("work", "/opt/llama.cpp/.work-a\n/etc", 1, "", tree=True),))
