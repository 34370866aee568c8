"""A drift report as JUnit XML, which GitLab, Jenkins and most other pipelines show as tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

from llamaherd.drift.report import COMPONENTS, DriftReport, Finding, HostReport
from llamaherd.drift.text import count_of, lines_of, printable, remedy_of

CHECK = "check"
"""The test case of each host that says whether it could be judged at all."""

_INDENT = "    "


def render_junit(report: DriftReport) -> str:
    """The report as one XML document, ended by a newline.

    A test suite a host. Its test cases are ``check``, an error where the host was unreachable or
    could not be judged, and the components in deploy.py's order: drift is a failure, with
    every finding and diff; news from upstream is ``system-out`` of a test that passes; what was
    not judged is skipped. What the lock file lags behind is a suite of its own, ``lock file``.

    Names and texts are made printable first, so that XML can hold them.
    """
    root = ET.Element("testsuites", name="llamaherd drift", time=_seconds(report.seconds))
    for host in report.hosts:
        root.append(_suite(report, host))
    if report.upstream:
        root.append(_lock_suite(report))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _suite(report: DriftReport, host: HostReport) -> ET.Element:
    name = printable(host.name)
    suite = ET.Element(
        "testsuite",
        name=name,
        hostname=name,
        timestamp=printable(report.started),
        time=_seconds(host.seconds),
    )
    judged = host.state in ("ok", "drift") and not host.error
    check = ET.SubElement(
        suite, "testcase", name=CHECK, classname=name, time=_seconds(host.seconds)
    )
    if not judged:
        message = "\n".join(map(printable, host.error.splitlines())) or host.state
        error = ET.SubElement(check, "error", message=_first_line(message), type=host.state)
        error.text = message
    for component in COMPONENTS:
        found = [finding for finding in host.findings if finding.component == component]
        suite.append(_case(name, component, found, judged))
    return _counted(suite)


def _case(host: str, component: str, found: Sequence[Finding], judged: bool) -> ET.Element:
    case = ET.Element("testcase", name=component, classname=host, time="0")
    drift = [finding for finding in found if finding.plane != "upstream"]
    if drift:
        failure = ET.SubElement(case, "failure", message=_message(drift), type="drift")
        failure.text = _text(drift)
    elif not judged:
        ET.SubElement(case, "skipped", message="not judged")
    news = [finding for finding in found if finding.plane == "upstream"]
    if news:
        ET.SubElement(case, "system-out").text = _text(news)
    return case


def _lock_suite(report: DriftReport) -> ET.Element:
    suite = ET.Element("testsuite", name="lock file", timestamp=printable(report.started), time="0")
    for component in COMPONENTS:
        found = [finding for finding in report.upstream if finding.component == component]
        if found:
            case = ET.SubElement(suite, "testcase", name=component, classname="lock file", time="0")
            ET.SubElement(case, "system-out").text = _text(found)
    return _counted(suite)


def _counted(suite: ET.Element) -> ET.Element:
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    return suite


def _message(found: Sequence[Finding]) -> str:
    """One line: the finding, or how many there are."""
    if len(found) > 1:
        return f"{count_of(len(found), 'difference')}: {', '.join(_subjects(found))}"
    return printable(f"{found[0].subject}: {found[0].summary}")


def _subjects(found: Iterable[Finding]) -> list[str]:
    return list(dict.fromkeys(printable(finding.subject) for finding in found))


def _text(found: Iterable[Finding]) -> str:
    lines = []
    for finding in found:
        lines.append(printable(f"{finding.plane}: {finding.subject}: {finding.summary}"))
        lines += [_INDENT + line for line in lines_of(finding.diff)]
        if remedy := remedy_of(finding):
            lines.append(f"{_INDENT}remedy: {remedy}")
    return "\n".join(lines)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _seconds(value: float) -> str:
    return f"{value:.3f}"
