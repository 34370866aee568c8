"""A clock that is wrong by a year.

Lab hosts share this machine's clock, so it isn't set: the commands of ours that look at it (date,
curl, apt-get) are told another time by libfaketime, and files are dated by touch.
"""

from __future__ import annotations

import os
import shlex
import ssl
import subprocess
from pathlib import Path

import requests
from converge_support import changed
from downloads import HUB_ROOT
from fault import SAYS, Fault, Serving
from fault_bed import SERVER, WRAPPERS, Bed, tail
from hub import Hub

UNIT = f"/etc/systemd/system/{SERVER}"
SOURCE = "repo: demo/SmolLM2-135M-Instruct-GGUF, "


def tell(bed: Bed, *commands: str, days: int) -> None:
    """These commands of the host are told a time that lies so many days ahead."""
    bed.sh("command -v faketime || apt-get install -y --no-install-recommends faketime")
    for command in commands:
        text = f'#!/bin/sh\nexec faketime -f {days:+}d /usr/bin/{command} "$@"\n'
        path = f"{WRAPPERS}/{command}"
        bed.sh(f"printf %s {shlex.quote(text)} > {path}; chmod 755 {path}")


def told_right(bed: Bed) -> None:
    bed.sh(f"rm -f {WRAPPERS}/*")


def behind_for_apt(bed: Bed) -> None:
    tell(bed, "date", "apt-get", days=-365)
    bed.sh("dpkg --remove --force-depends ripgrep")


def behind_for_tls(bed: Bed) -> None:
    bed.forget_model()
    bed.use(((SOURCE, f"{SOURCE}endpoint: '{https_hub(bed)}', "),))
    tell(bed, "date", "curl", days=-365)


def ahead_for_tls(bed: Bed) -> None:
    bed.forget_model()
    bed.use(((SOURCE, f"{SOURCE}endpoint: '{https_hub(bed)}', "),))
    tell(bed, "date", "curl", days=365)


def https_hub(bed: Bed) -> str:
    """Address of a hub whose certificate, of an authority that the host knows, is of this month."""
    before = os.environ.get("REQUESTS_CA_BUNDLE", requests.certs.where())
    bundle, certificate = authority(bed)
    bed.site.environment["REQUESTS_CA_BUNDLE"] = str(bundle)
    bed.lent.callback(bed.site.environment.update, {"REQUESTS_CA_BUNDLE": before})
    hub = Hub(HUB_ROOT, bind=str(bed.hub.server_address[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    hub.socket = context.wrap_socket(hub.socket, server_side=True, do_handshake_on_connect=False)
    bed.lent.enter_context(hub)
    return hub.url.replace("http:", "https:")


def authority(bed: Bed) -> tuple[Path, Path]:
    """Those whom the controller trusts, and a certificate with its key of one of them.

    That one is new, made for servers of the lab's network; the host trusts it, too.
    """
    trusted, certificate = _certificate(bed.folder, bed.hub.server_address[0])
    bed.undo.append("rm -f /usr/local/share/ca-certificates/lab.crt; update-ca-certificates")
    text = shlex.quote(trusted.read_text())
    bed.sh(f"echo {text} > /usr/local/share/ca-certificates/lab.crt; update-ca-certificates")
    before = os.environ.get("REQUESTS_CA_BUNDLE", requests.certs.where())
    bundle = bed.folder / "bundle.crt"
    bundle.write_text(Path(before).read_text() + trusted.read_text())
    return bundle, certificate


def _certificate(folder: Path, address: object) -> tuple[Path, Path]:
    """An authority's certificate, and one of its own with its key, both valid from now on."""
    script = f"""set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=lab
openssl req -newkey rsa:2048 -nodes -keyout hub.key -out hub.csr -subj /CN=hub
printf 'subjectAltName=IP:{address}\\n' > hub.ext
openssl x509 -req -in hub.csr -CA ca.crt -CAkey ca.key -days 30 -out hub.crt -extfile hub.ext \
  -CAcreateserial
cat hub.key hub.crt > hub.pem
"""
    subprocess.run(["sh", "-c", script], cwd=folder, check=True, capture_output=True)
    return folder / "ca.crt", folder / "hub.pem"


def drop_in(bed: Bed) -> None:
    """An administrator's drop-in that the running server was started with."""
    bed.undo.append(f"rm -r {UNIT}.d; systemctl daemon-reload; systemctl restart {SERVER}")
    bed.sh(
        f"mkdir -p {UNIT}.d; printf '[Service]\\nNice=1\\n' > {UNIT}.d/10-nice.conf;"
        f"systemctl daemon-reload; systemctl restart {SERVER}"
    )


def nothing_to_do(bed: Bed) -> None:
    before = bed.process()
    result = bed.converge("--json")
    assert result.returncode == 0, tail(result)
    assert changed(result) == []
    assert bed.process() == before, "the server was restarted for nothing"


def behind_with_a_drop_in(bed: Bed) -> None:
    drop_in(bed)
    tell(bed, "date", days=-365)
    nothing_to_do(bed)


def files_of_next_year(bed: Bed) -> None:
    drop_in(bed)
    bed.sh(
        f"touch -d '+1 year' {UNIT} {UNIT}.d {UNIT}.d/*; systemctl daemon-reload;"
        f"systemctl restart {SERVER}"
    )
    nothing_to_do(bed)


FAULTS = (
    Fault(
        "a year behind, for apt",
        "clock",
        "the host's clock is a year behind, and a package of ours is missing",
        f"{SAYS}that a Release file isn't valid yet, and which date the clock says",
        behind_for_apt,
        says=r"failed: apt: Release file .* is not valid yet .*and its clock \(it says 20\d\d-",
        mend=told_right,
    ),
    Fault(
        "a year behind, for a hub",
        "clock",
        "the host's clock is a year behind, and the hub's certificate is of today",
        f"{SAYS}that the certificate isn't valid yet, and which date the clock says; no retries",
        behind_for_tls,
        quick=True,
        serving=Serving.UNTIL_HEALED,
        says=r"failed: https://\S+ is not trusted \(curl: \(60\) .* whose clock says 20\d\d-\d\d-",
        mend=told_right,
    ),
    Fault(
        "a year ahead, for a hub",
        "clock",
        "the host's clock is a year ahead, and the hub's certificate ends before that",
        f"{SAYS}that the certificate has expired, and which date the clock says; no retries",
        ahead_for_tls,
        quick=True,
        serving=Serving.UNTIL_HEALED,
        says=r"failed: https://\S+ is not trusted \(curl: \(60\) .*expired.* says 20\d\d-\d\d-",
        mend=told_right,
    ),
    Fault(
        "a year behind, a drop-in",
        "clock",
        "the host's clock is a year behind, and a server has a drop-in of the administrator's",
        "nothing is restarted for the drop-in's age, run after run",
        behind_with_a_drop_in,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "a year ahead until today",
        "clock",
        "unit and drop-in were written when the clock was a year ahead; it has been set right",
        "nothing is restarted for files of the future, run after run",
        files_of_next_year,
        serving=Serving.ANSWERS,
    ),
)
