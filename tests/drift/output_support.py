"""Reports that the tests of the outputs share: an office's fleet, a large one, and any at all."""

from datetime import datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from llamaherd.drift.report import (
    COMPONENTS,
    DriftReport,
    Finding,
    HostReport,
    host_state,
)

STARTED = datetime.fromisoformat("2026-11-22T09:18:14+00:00")

UNIT = Finding(
    plane="declared",
    component="llama_server",
    subject="/etc/systemd/system/llama-server@coder.service",
    summary="3 lines differ",
    diff=(
        "--- installed",
        "+++ declared",
        "@@ -14,9 +14,9 @@",
        " [Service]",
        " DynamicUser=yes",
        "-Environment=LLAMA_ARG_CTX_SIZE=65536",
        "-Environment=LLAMA_ARG_N_PARALLEL=1",
        "+Environment=LLAMA_ARG_CTX_SIZE=131072",
        "+Environment=LLAMA_ARG_N_PARALLEL=2",
        " Environment=LLAMA_ARG_FLASH_ATTN=on",
        "-Restart=no",
        "+Restart=on-failure",
        " RestartSec=5",
    ),
)
MODE = Finding(
    plane="declared",
    component="llama_server",
    subject="/etc/llama-server/coder/api-key",
    summary="mode 644 -> 600",
)
PROCESS = Finding(
    plane="running",
    component="llama_server",
    subject="llama-server@coder.service",
    summary="serves a context of 65536 tokens, its unit asks for 131072",
    remedy="converge, which restarts it: pyinfra inventory.py deploy.py --limit gpu-02",
)
MODEL = Finding(
    plane="declared",
    component="models",
    subject="unsloth/GLM-4.7-Flash-GGUF/GLM-4.7-Flash-UD-Q4_K_XL.gguf",
    summary="17,512,034,304 bytes -> 17,521,471,424",
)
OPENCODE = Finding(
    plane="declared",
    component="opencode",
    subject="/home/dev/.config/opencode/opencode.json",
    summary="1 of our keys differs",
    diff=(
        "--- installed",
        "+++ declared",
        "@@ -3,5 +3,5 @@",
        '   "provider": {',
        '     "llamaherd": {',
        '-      "options": {"baseURL": "http://10.0.0.9:8888/v1"}',
        '+      "options": {"baseURL": "http://10.0.0.12:8888/v1"}',
        "     }",
    ),
)
DRIVER = Finding(
    plane="running",
    component="cuda",
    subject="nvidia kernel module",
    summary="module 580.65.06 is loaded, the libraries are 580.95.05",
    remedy="reboot the host",
)
NEWER_BUILD = Finding(
    plane="upstream",
    component="llama_cpp",
    subject="ggml-org/llama.cpp",
    summary="b8146 is pinned, b8391 is published",
    remedy="llamaherd lock --update llama_cpp",
)
NEWER_MODEL = Finding(
    plane="upstream",
    component="models",
    subject="unsloth/GLM-4.7-Flash-GGUF",
    summary="revision 0d3e1c74a9 is pinned, 7be41f02c6 is published",
    remedy="llamaherd lock --update glm-4.7-flash",
)
NEWER_PACKAGE = Finding(
    plane="upstream",
    component="cuda",
    subject="cuda-toolkit-13-0",
    summary="13.0.1-1 is installed, 13.0.2-1 is published",
)
UNREACHABLE = "connect to host 10.0.0.13 port 22: No route to host"


def judged(name: str, *findings: Finding, seconds: float = 1.1) -> HostReport:
    """A host that was judged by these findings."""
    return HostReport(name, host_state(findings), findings, "", seconds, 13, 11)


def lost(name: str, error: str = UNREACHABLE) -> HostReport:
    """A host that could not be reached."""
    return HostReport(name, "unreachable", (), error, 10.0)


def check_at(hours: float, *hosts: HostReport, upstream: tuple[Finding, ...] = ()) -> DriftReport:
    """A check so many hours before the last one."""
    started = (STARTED - timedelta(hours=hours)).isoformat()
    seconds = max((host.seconds for host in hosts), default=0) + 0.2
    return DriftReport("inventories/fleet.yaml", started, seconds, hosts, upstream)


def office() -> DriftReport:
    """Four hosts: one in order, two that drifted, one unreachable."""
    return check_at(
        0,
        judged("gpu-01", NEWER_PACKAGE),
        judged("gpu-02", UNIT, MODE, PROCESS, OPENCODE, seconds=1.4),
        lost("gpu-03"),
        judged("workshop", DRIVER, seconds=0.9),
        upstream=(NEWER_BUILD, NEWER_MODEL),
    )


def office_history() -> list[DriftReport]:
    """The 17 checks before it: a model that was mended, then a unit that was edited."""
    past = []
    for index in range(17):
        back = 17 - index
        second = judged("gpu-02")
        if 4 <= index < 7:
            second = judged("gpu-02", MODEL)
        elif index >= 14:
            second = judged("gpu-02", UNIT, MODE)
        third = lost("gpu-03") if index in (9, 10, 16) else judged("gpu-03")
        fourth = judged("workshop", DRIVER) if index >= 12 else judged("workshop")
        past.append(check_at(back * 6, judged("gpu-01"), second, third, fourth))
    return past


def large(number: int = 60, hours: float = 0) -> DriftReport:
    """A fleet of racks in which every so many hosts have something."""
    hosts = [_racked(index, int(hours)) for index in range(number)]
    return check_at(hours, *hosts, upstream=(NEWER_BUILD,))


def large_history(number: int = 60, checks: int = 29) -> list[DriftReport]:
    """The checks before it, six hours apart, each with a little less trouble than the next."""
    return [large(number, 6 * back) for back in range(checks, 0, -1)]


def _racked(index: int, hours: int) -> HostReport:
    name = f"rack{index // 20 + 1}-gpu{index % 20 + 1:02}"
    if index % 31 == 17 and hours < 30:
        return lost(name, f"connect to host 10.1.0.{index % 250} port 22: Connection timed out")
    if index % 47 == 40 and hours < 10:
        reason = "sudo: a password is required; see docs/troubleshooting"
        return HostReport(name, "error", (MODE,), reason, 2.2, 4, 1)
    if index % 13 == 5 and hours < 6 * (index % 7 + 1):
        return judged(name, UNIT, PROCESS)
    if index % 17 == 9 and hours < 12:
        return judged(name, OPENCODE)
    if index % 29 == 3 and hours < 90:
        return judged(name, DRIVER, NEWER_PACKAGE)
    return judged(name)


# Any report at all: names and texts are whatever a host may say, lone surrogates included.
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text("\x00\x1b\n\r\t\x85\u2028\u202e\ud800\udcff\ufffe<>&'\"\\ ${}[]é界😀", max_size=8),
    st.sampled_from(
        [
            "</script><script>alert(1)</script>",
            "</style><img src=x onerror=alert(1)>",
            "\"' onmouseover='alert(1)",
            "]]>",
            "a\nb\r\nc",
            "\x1b[2J\x00\x07",
            "${jndi}",
            "\\",
            'x"} 1\nevil_metric 1',
            "\u202egpj.exe",
            "\udcff\udc80",
        ]
    ),
)
FINDINGS = st.builds(
    Finding,
    plane=st.sampled_from(["declared", "running", "upstream"]),
    component=st.sampled_from(COMPONENTS),
    subject=TEXTS,
    summary=TEXTS,
    diff=st.lists(TEXTS.map("+{}".format), max_size=2).map(tuple),
    remedy=TEXTS,
)
SECONDS = st.integers(0, 10**7).map(lambda milliseconds: milliseconds / 1000)


@st.composite
def hosts(draw: st.DrawFn) -> HostReport:
    """Any host; its state fits its findings and its error."""
    found = tuple(draw(st.lists(FINDINGS, max_size=3)))
    state = draw(st.sampled_from(["judged", "unreachable", "error"]))
    error = "" if state == "judged" else draw(TEXTS.filter(bool))
    return HostReport(
        name=draw(TEXTS),
        state=host_state(found) if state == "judged" else state,  # type: ignore[arg-type]
        findings=found,
        error=error,
        seconds=draw(SECONDS),
        commands=draw(st.integers(0, 500)),
        operations=draw(st.integers(0, 500)),
    )


REPORTS = st.builds(
    DriftReport,
    fleet=TEXTS,
    started=st.sampled_from(
        ["2026-11-22T09:18:14+00:00", "1999-12-31T23:59:59.5-08:00", "2026-02-28T00:00:00+05:45"]
    ),
    seconds=SECONDS,
    hosts=st.lists(hosts(), max_size=3, unique_by=lambda host: host.name).map(tuple),
    upstream=st.lists(FINDINGS, max_size=2).map(tuple),
)
# A report is large to draw; forty of them have shown every trouble that four hundred do.
REPORT_SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
