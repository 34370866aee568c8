"""A server's scripts that root runs beside it: nothing that the server can write leads them."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from deploys.llama_server.files import render_slots, render_wait_ready
from deploys.llama_server.instance import SLOTS_VARIABLE, Instance
from inventories.settings import ModelSettings, ServerSettings

SERVER = ServerSettings(name="coder", model="glm", port=8888, context=8192, slot_save=True)
INSTANCE = Instance(
    SERVER,
    ModelSettings(name="glm", title="glm", directory="/m", files=()),
    "/opt/llama.cpp/b1-x/bin/llama-server",
    frozenset(),
    gpu=False,
)


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers everything with the model's name."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"id": "glm"}')

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_readiness_check_reads_no_curlrc_of_the_servers_home(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    (tmp_path / ".curlrc").write_text(f'output = "{taken}"\n')
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]
        script = render_wait_ready(replace(INSTANCE, server=replace(SERVER, port=port)))
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MAINPID": "1"}
        done = subprocess.run(["dash", "-c", script], env=environment, check=False, timeout=60)
        server.shutdown()
    assert done.returncode == 0
    assert not taken.exists()


@pytest.mark.parametrize("of", ["x/../../etc/libc.so", "abc;id", "-f", ""])
def test_slots_of_a_process_that_forged_its_environment_are_left_alone(
    tmp_path: Path, of: str
) -> None:
    for name in ("curl", "setpriv"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(["sleep", "60"], env={SLOTS_VARIABLE: of, "PATH": "/usr/bin:/bin"})
    try:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MAINPID": str(process.pid)}
        script = ["dash", "-c", render_slots(INSTANCE), "slots", "save"]
        done = subprocess.run(script, env=environment, check=False, timeout=60)
    finally:
        process.kill()
        process.wait()
    assert done.returncode == 0
    assert not (tmp_path / "called").exists()


def test_slots_are_moved_with_the_servers_rights() -> None:
    script = render_slots(INSTANCE)
    for line in script.splitlines():
        words = line.split()
        assert not {"mv", "rm"} & set(words) or "mine" in words, line
