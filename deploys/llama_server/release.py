"""Releases of a server: the one that is in force, and the good one before it. Pure.

A release is everything that makes a server what it is: its unit (and so its build, its models'
files and its arguments) and its files below ``/etc/llama-server/<name>``, named by the
configuration hash that its process carries. A host keeps two, below :data:`RELEASES`::

    /var/lib/llamaherd/releases/<server>/
        current -> <hash>     the last one that answered as declared
        previous -> <hash>    the one before it
        <hash>/unit  <hash>/etc/...  <hash>/check  <hash>/timeout  <hash>/uses

``uses`` lists, an absolute path a line, the build and the model files that the release needs. A new
release is put in force by a job on the host, which ends as it must whoever watches: it is kept only
if it answers as declared within its readiness time and is still up :data:`SETTLE_SECONDS` after
its start; otherwise the current one is put back and started.

Upstream behaviour relied on (llama.cpp's tools/server and src/llama-model.cpp at 0c1e570):
``/props`` tells ``n_ctx`` of a slot and ``total_slots``; ``--list-devices`` names CUDA's devices
``CUDA0`` and so on; the line ``offloaded N/M layers to GPU`` is logged only from verbosity 4 on.
systemd.exec(5), systemctl(1): ``systemctl restart`` waits for ``ExecStartPost``; InvocationID.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from deploys.common.files import ManagedFile
from deploys.common.jobs import LOG_LINES, Job
from deploys.common.shell import operand, word
from deploys.common.systemd import template
from deploys.llama_server.files import curl_options, own_url
from deploys.llama_server.instance import FILES, KEY_FILE, SETTINGS, Instance
from deploys.llama_server.unit import config_hash, render_unit
from facts.servers import MARK, RELEASES, UNITS, unit_name
from inventories.llama_options import slot_contexts
from inventories.settings import ModelSettings, ServerSettings
from inventories.sizing.estimate import MIB
from inventories.sizing.placement import least_gpu_bytes

_HERE = Path(__file__).parent

SETTLE_SECONDS = 10
"""How old a new release's process must get before the release is kept."""

LEAST_CHECK_SECONDS = 30
"""What asking a server may take in any case, however long its start took."""


def release_of(instance: Instance) -> str:
    """The name of the release that a server will be."""
    return config_hash(render_unit(instance))


def release_job(instance: Instance, files: Sequence[ManagedFile], *, restart: bool) -> Job:
    """The job that puts a release in force and keeps it, or puts the one before it back.

    + files: the server's, as :func:`deploys.llama_server.files.server_files` has them
    + restart: False where its process runs already as declared: it is only asked, and kept
    """
    server, release = instance.server, release_of(instance)
    staged = [
        *((_place(file), file.mode, file.content) for file in files),
        ("check", "644", render_check(instance)),
        ("timeout", "644", f"{server.ready_timeout}\n"),
        ("uses", "644", "".join(f"{path}\n" for path in uses(instance))),
    ]
    action = "restart" if restart else "keep"
    return Job(
        name=f"server-{server.name}-{release}",
        title=f"{'starting' if restart else 'checking'} {unit_name(server.name)}",
        script=_script(server.name, action, release, [(name, mode) for name, mode, _ in staged]),
        secrets={_secret(name): content for name, _, content in staged},
        probe="cat report 2>/dev/null",
        report=lambda lines: [f"{unit_name(server.name)}: {line}" for line in lines],
    )


def rollback_job(server: str) -> Job:
    """The job that puts a server's previous release in force again; both are kept, swapped."""
    return Job(
        name=f"server-{server}-back",
        title=f"rolling back {unit_name(server)}",
        script=_script(server, "back"),
        probe="cat report 2>/dev/null",
        report=lambda lines: [f"{unit_name(server)}: {line}" for line in lines],
    )


def uses(instance: Instance) -> tuple[str, ...]:
    """What a release needs beside its own files: its build's folder, its models' files.

    Raises WordError for a name that would be two lines of the list.
    """
    models = [instance.model, *instance.models]
    if instance.draft is not None:
        models.append(instance.draft)
    build = posixpath.dirname(posixpath.dirname(instance.binary))
    found = (build, *dict.fromkeys(path for model in models for path in _paths(model)))
    for path in found:
        operand(path)
    return found


def _paths(model: ModelSettings) -> Iterator[str]:
    for file in model.files:
        yield posixpath.join(model.directory, file.name)


def guard_name(server: str) -> str:
    """The unit that a trial leaves for a boot in its middle."""
    return f"llamaherd-trial-{server}.service"


def _place(file: ManagedFile) -> str:
    """Where a release's folder keeps a file."""
    if file.path.startswith(f"{UNITS}/"):
        return "unit"
    return f"etc/{posixpath.basename(file.path)}"


def _secret(name: str) -> str:
    return name.replace("/", ".")


def _script(
    server: str, action: str, release: str = "", staged: Iterable[tuple[str, str]] = ()
) -> str:
    return template(_HERE / "release.sh").substitute(
        unit=operand(unit_name(server)),
        units=UNITS,
        settings=operand(f"{SETTINGS}/{server}"),
        store=operand(f"{RELEASES}/{server}"),
        guard=operand(guard_name(server)),
        mark=MARK,
        action=action,
        setting=word(f"servers.{server}"),
        names=" ".join(FILES),
        lines=LOG_LINES,
        least=LEAST_CHECK_SECONDS,
        settle=SETTLE_SECONDS,
        id=release,
        stage="\n".join(
            f"stage {operand(f'secret.{_secret(name)}')} {operand(name)} {mode}"
            for name, mode in staged
        ),
    )


def render_check(instance: Instance) -> str:
    """The script that says whether a server answers as declared."""
    server = instance.server
    return template(_HERE / "check.sh").substitute(
        mark=MARK,
        unit=word(unit_name(server.name)),
        binary=word(instance.binary),
        url=word(own_url(server)),
        key=word(KEY_FILE.format(name=server.name)),
        curl=curl_options(server),
        devices="\n".join(f"  {line}" for line in (*_devices(instance), ":")),
        answers="\n".join(f"  {line}" for line in (*_answers(instance), ":")),
    )


def _devices(instance: Instance) -> Iterator[str]:
    """Questions to a build before anything is stopped: it would go on without a GPU in silence."""
    if instance.server.gpus == () or not (instance.gpu or instance.vulkan):
        return
    visible = ""
    if instance.gpu:
        yield "timeout 60 /usr/bin/nvidia-modprobe -u -c0 2>/dev/null || :"
        if instance.server.gpus is not None:
            visible = f"CUDA_VISIBLE_DEVICES={word(','.join(instance.server.gpus))} "
    kind = "CUDA" if instance.gpu else "Vulkan"
    found = word(f"^ *{kind}[0-9]")
    yield f'{visible}timeout 120 "$binary" --list-devices 2>/dev/null | grep -q {found} ||'
    yield (
        f'  bad "$binary sees no {kind} device (--list-devices): mend the driver (nvidia-smi), '
        f'or set servers.{instance.server.name}.gpus to [] to compute on the processor"'
    )


def _answers(instance: Instance) -> Iterator[str]:
    """Questions to the running server."""
    server = instance.server
    if not server.models:
        yield from _asked(server, "/props", instance.model.name)
    for model in instance.models:
        yield f"listed {word(json.dumps(model.name))}"
    loaded = [served for served in server.models if served.load_on_startup]
    for served in loaded:
        yield from _asked(served, f"/props?model={quote(served.model, safe='')}", served.model)
    if instance.gpu and server.gpus != () and (loaded or not server.models):
        yield f"on_gpu {least_gpu_bytes(server, instance.model) // MIB}"


def _asked(server: ServerSettings, props: str, name: str) -> Iterator[str]:
    contexts = " ".join(str(tokens) for tokens in dict.fromkeys(slot_contexts(server)))
    yield f"listed {word(json.dumps(name))}"
    yield f"sized {word(props)} {word(contexts)} {server.context} {server.parallel}"
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
        "max_tokens": 8,
    }
    yield f"completes {word(json.dumps(body))}"
