"""A drift report as metrics, for the textfile collector of Prometheus' node exporter.

Text format 0.0.4, without timestamps (the collector refuses a file that has any). Every series
carries the fleet: two fleets checked from one machine write two files, and the collector takes no
series twice. Times are in seconds, as Prometheus' naming practices ask.

A check of 1,000 hosts would make 24,000 series of findings, nearly all zero; so
``llamaherd_drift_findings`` has only those that are not, and alerts watch
``llamaherd_drift_host_state``, which always has four series a host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

from llamaherd.drift.report import COMPONENTS, DriftReport
from llamaherd.drift.text import PLANES, STATES

Sample = tuple[dict[str, str], float]


def render_prometheus(report: DriftReport) -> str:
    """The report in Prometheus' text format, in a fixed order, ended by a newline.

    ``started`` must be a date and time with an offset: ValueError else.
    """
    fleet = {"fleet": report.fleet}
    ended = datetime.fromisoformat(report.started).timestamp() + report.seconds
    lines = [
        *_family(
            "last_run_timestamp_seconds",
            "When the last drift check ended, in seconds since 1970.",
            [(fleet, ended)],
        ),
        *_family(
            "duration_seconds",
            "How long the last drift check of the whole fleet took.",
            [(fleet, report.seconds)],
        ),
        *_family(
            "exit_code",
            "Exit status of the last drift check: 0 clean, 2 drift and nothing else, 1 any other.",
            [(fleet, report.exit_code)],
        ),
        *_family(
            "host_state",
            "1 for the state in which the last drift check found the host, 0 for the others.",
            _host_states(report),
        ),
        *_family(
            "host_duration_seconds",
            "How long the last drift check of the host took.",
            _each_host(report, "seconds"),
        ),
        *_family(
            "host_commands",
            "Remote commands that the last drift check of the host needed.",
            _each_host(report, "commands"),
        ),
        *_family(
            "findings",
            "Findings of the last drift check; a host, component and plane without any is absent.",
            _findings(report),
        ),
        *_family(
            "upstream_findings",
            "What the lock file pins that is behind what is published.",
            _upstream(report),
        ),
    ]
    return "\n".join(lines) + "\n"


def _host_states(report: DriftReport) -> Iterator[Sample]:
    for host in report.hosts:
        for state in STATES:
            labels = {"fleet": report.fleet, "host": host.name, "state": state}
            yield labels, int(host.state == state)


def _each_host(report: DriftReport, attribute: Literal["seconds", "commands"]) -> Iterator[Sample]:
    for host in report.hosts:
        yield {"fleet": report.fleet, "host": host.name}, getattr(host, attribute)


def _findings(report: DriftReport) -> Iterator[Sample]:
    for host in report.hosts:
        counted = Counter((finding.component, finding.plane) for finding in host.findings)
        for component in COMPONENTS:
            for plane in PLANES:
                if number := counted[component, plane]:
                    place = {"host": host.name, "component": component, "plane": plane}
                    yield {"fleet": report.fleet} | place, number


def _upstream(report: DriftReport) -> Iterator[Sample]:
    counted = Counter(finding.component for finding in report.upstream)
    for component in COMPONENTS:
        yield {"fleet": report.fleet, "component": component}, counted[component]


def _family(name: str, help_text: str, samples: Iterable[Sample]) -> Iterator[str]:
    full = f"llamaherd_drift_{name}"
    yield f"# HELP {full} {help_text}"
    yield f"# TYPE {full} gauge"
    for labels, value in samples:
        written = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
        yield f"{full}{{{written}}} {_number(value)}"


def _number(value: float) -> str:
    """Without an exponent or needless digits: milliseconds are more than enough."""
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def _escape(value: str) -> str:
    """A label's value: backslash, quote and newline escaped, lone surrogates replaced."""
    whole = value.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
