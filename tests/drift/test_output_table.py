"""The table for a person."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from output_support import (
    MODE,
    NEWER_BUILD,
    PROCESS,
    REPORT_SETTINGS,
    REPORTS,
    check_at,
    judged,
    lost,
    office,
)

from llamaherd.drift.report import DriftReport, HostReport
from llamaherd.drift.table import _columns, render_table, wrap
from llamaherd.drift.text import printable

COLOUR = re.compile("\x1b\\[[0-9;]*m")


def test_a_fleet_in_order_is_a_line_a_host_and_a_summary() -> None:
    report = check_at(0, judged("gpu-01"), judged("gpu-2"))

    assert render_table(report, colour=False) == "gpu-01  ok\ngpu-2   ok\n\n2 hosts: 2 ok"


def test_hosts_components_planes_diffs_and_remedies_each_have_their_place() -> None:
    report = check_at(0, judged("gpu-01", MODE, PROCESS), lost("gpu-02"), upstream=(NEWER_BUILD,))

    assert render_table(report, colour=False).splitlines() == [
        "gpu-01  drift        llama_server 1 declared, 1 running",
        "gpu-02  unreachable  not judged",
        "",
        "gpu-01",
        "  llama_server",
        "    declared  /etc/llama-server/coder/api-key: mode 644 -> 600",
        "              remedy: the next converge mends it",
        "    running   llama-server@coder.service: serves a context of 65536 tokens, its",
        "              unit asks for 131072",
        "              remedy: converge, which restarts it: pyinfra inventory.py",
        "              deploy.py --limit gpu-02",
        "",
        "gpu-02",
        "  error: connect to host 10.0.0.13 port 22: No route to host",
        "",
        "lock file",
        "  llama_cpp",
        "    upstream  ggml-org/llama.cpp: b8146 is pinned, b8391 is published",
        "              remedy: llamaherd lock --update llama_cpp",
        "",
        "2 hosts: 1 drift, 1 unreachable",
    ]


def test_what_was_found_before_a_check_broke_off_is_shown() -> None:
    host = HostReport("gpu-01", "error", (MODE,), "time limit of 60 s")
    text = render_table(check_at(0, host), colour=False)

    assert "error        llama_server 1 declared; the rest not judged" in text
    assert "mode 644 -> 600" in text


def test_a_diff_keeps_its_indentation_and_its_signs() -> None:
    text = render_table(office(), colour=False)

    assert "                -Restart=no\n                +Restart=on-failure\n" in text
    assert '                     "llamaherd": {\n' in text


def test_colours_only_decorate() -> None:
    coloured = render_table(office(), colour=True)

    assert "\x1b[33mdrift" in coloured
    assert "\x1b[32m+Restart=on-failure\x1b[0m" in coloured
    assert COLOUR.sub("", coloured) == render_table(office(), colour=False)


def test_a_fleet_without_hosts_says_so() -> None:
    assert render_table(check_at(0), colour=False) == "0 hosts"


def test_a_long_name_gets_a_line_of_its_own() -> None:
    name = "a-host-with-a-name-much-longer-than-most"
    report = check_at(0, judged(name), judged("b"))

    assert render_table(report, colour=False).splitlines()[0] == name


@REPORT_SETTINGS
@given(REPORTS, st.integers(40, 120))
def test_every_line_of_any_report_fits_and_could_be_typed(report: DriftReport, width: int) -> None:
    for line in render_table(report, colour=False, width=width).split("\n"):
        assert _columns(line) <= width
        assert line.isprintable()


@REPORT_SETTINGS
@given(REPORTS)
def test_every_host_and_finding_of_any_report_is_in_the_table(report: DriftReport) -> None:
    text = squeezed(render_table(report, colour=False))

    for host in report.hosts:
        assert squeezed(printable(host.name)) in text
        for finding in host.findings:
            assert squeezed(printable(f"{finding.subject}: {finding.summary}")) in text


@given(st.text(max_size=200), st.integers(2, 30), st.booleans())
def test_wrapping_loses_nothing_but_spaces(text: str, width: int, words: bool) -> None:
    lines = wrap(text, width, words=words)

    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(_columns(line) <= width for line in lines)


@pytest.mark.parametrize("state", ["ok", "drift", "unreachable", "error"])
def test_the_last_line_counts_states(state: str) -> None:
    host = replace(judged("gpu-01"), state=state, error="why" if state == "error" else "")
    text = render_table(check_at(0, host), colour=False)  # type: ignore[arg-type]

    assert text.splitlines()[-1] == f"1 host: 1 {state}"


def squeezed(text: str) -> str:
    return "".join(text.split())
