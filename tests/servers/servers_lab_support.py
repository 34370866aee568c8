"""The fleet of the servers' lab tests, and the certificate of one of them."""

from __future__ import annotations

import subprocess
from typing import Any

from converge_support import DEFAULTS, MODELS

FLEET = (
    MODELS
    + """\
  twin:
    hub: {{repo: demo/SmolLM2-135M-Instruct-GGUF, quant: Q4_1}}
"""
    + DEFAULTS
    + """\
hosts:
  box:
    ssh: {{hostname: {alias}, user: ops, config_file: {ssh_config}}}
    servers:
      plain: {{model: smollm2, port: 8801, context: 512, metrics: true}}
      secure:
        model: smollm2
        port: 8802
        context: 512
        address: box.example.com
        api_key: {{env: TEST_API_KEY}}
        tls: {{certificate: /etc/ssl/llama/cert.pem, key: /etc/ssl/llama/key.pem}}
      keeper: {{model: smollm2, port: 8803, context: 1024, slot_save: true}}
      hidden: {{model: smollm2, context: 512, unix_socket: true, socket_group: www-data}}
      several:
        port: 8805
        context: 512
        models_max: 1
        models: {{smollm2: {{context: 1024}}, twin: {{}}}}
"""
)


def certificate(days: int = 30) -> tuple[str, str]:
    """A certificate for box.example.com and its key, in PEM."""
    done = subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ],
            *f"-days {days} -subj /CN=box.example.com -keyout - -out -".split(),
            *["-addext", "subjectAltName=DNS:box.example.com"],
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    key, begin, rest = done.stdout.partition("-----BEGIN CERTIFICATE-----")
    return begin + rest, key


def lay_certificate(site: Any) -> None:
    """A new certificate and key where the fleet file says that they are."""
    for name, text in zip(("cert", "key"), certificate(), strict=True):
        path = f"/etc/ssl/llama/{name}.pem"
        site.ssh(f"mkdir -p /etc/ssl/llama && umask 077 && cat > {path} <<'PEM'\n{text}PEM")
