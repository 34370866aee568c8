"""Metrics for the node exporter's textfile collector."""

import re

from hypothesis import given
from output_support import REPORT_SETTINGS, REPORTS, check_at, judged, office
from prometheus_client.parser import text_string_to_metric_families

from llamaherd.drift.prometheus import render_prometheus
from llamaherd.drift.report import DriftReport

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    """Every sample, read by Prometheus' own client; each may be there once."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type == "gauge"
        for sample in family.samples:
            assert sample.timestamp is None
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    labels = {"fleet": "inventories/fleet.yaml"} | labels
    return f"llamaherd_drift_{name}", frozenset(labels.items())


def test_an_office_as_metrics() -> None:
    found = series(render_prometheus(office()))

    assert found[of("host_state", host="gpu-02", state="drift")] == 1
    assert found[of("host_state", host="gpu-02", state="ok")] == 0
    assert found[of("host_state", host="gpu-03", state="unreachable")] == 1
    assert found[of("findings", host="gpu-02", component="llama_server", plane="declared")] == 2
    assert found[of("findings", host="gpu-02", component="llama_server", plane="running")] == 1
    assert found[of("findings", host="gpu-01", component="cuda", plane="upstream")] == 1
    assert found[of("upstream_findings", component="models")] == 1
    assert found[of("upstream_findings", component="cuda")] == 0
    assert found[of("exit_code")] == 1
    assert found[of("duration_seconds")] == 10.2
    assert found[of("host_duration_seconds", host="workshop")] == 0.9
    # 09:18:14 UTC and 10.2 seconds.
    assert found[of("last_run_timestamp_seconds")] == 1795339104.2


def test_a_host_in_order_has_no_series_of_findings() -> None:
    assert "findings{" not in render_prometheus(check_at(0, judged("gpu-01"))).replace(
        "upstream_findings{", ""
    )


def test_two_fleets_on_one_machine_share_no_series() -> None:
    first = series(render_prometheus(office()))
    second = series(render_prometheus(DriftReport("lab.yaml", office().started, 1, ())))

    assert first.keys().isdisjoint(second)


@REPORT_SETTINGS
@given(REPORTS)
def test_any_report_is_read_back_by_prometheus_client(report: DriftReport) -> None:
    names = {host.name.encode("utf-8", "replace") for host in report.hosts}
    if len(names) < len(report.hosts):
        return  # Two names that differ only in bytes that are not UTF-8.
    found = series(render_prometheus(report))
    fleet = report.fleet.encode("utf-8", "replace").decode()
    for host in report.hosts:
        name = host.name.encode("utf-8", "replace").decode()
        states = {
            dict(labels)["state"]: value
            for (metric, labels), value in found.items()
            if metric == "llamaherd_drift_host_state" and dict(labels)["host"] == name
        }
        assert states.pop(host.state) == 1
        assert list(states.values()) == [0, 0, 0]
    counted = sum(value for (name, _), value in found.items() if name.endswith("drift_findings"))
    assert counted == sum(len(host.findings) for host in report.hosts)
    assert all(dict(labels)["fleet"] == fleet for _, labels in found)


@REPORT_SETTINGS
@given(REPORTS)
def test_every_line_keeps_to_the_text_format(report: DriftReport) -> None:
    text = render_prometheus(report)
    label = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
    sample = re.compile(rf"([a-z_]+)\{{{label}(?:,{label})*\}} -?[0-9]+(?:\.[0-9]+)?")

    assert text.endswith("\n")
    family = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {family} gauge"
        else:
            match = sample.fullmatch(line)
            assert match, line
            assert match[1] == family


@REPORT_SETTINGS
@given(REPORTS)
def test_the_same_report_gives_the_same_bytes(report: DriftReport) -> None:
    assert render_prometheus(report).encode() == render_prometheus(report).encode()
