"""JUnit XML for pipelines."""

from xml.etree import ElementTree as ET

from hypothesis import given
from output_support import MODE, REPORT_SETTINGS, REPORTS, UNREACHABLE, check_at, judged, office

from llamaherd.drift.junit import render_junit
from llamaherd.drift.report import COMPONENTS, DriftReport, HostReport
from llamaherd.drift.text import printable


def suites(report: DriftReport) -> dict[str, ET.Element]:
    root = ET.fromstring(render_junit(report).encode())
    return {suite.get("name", ""): suite for suite in root.iter("testsuite")}


def case(suite: ET.Element, name: str) -> ET.Element:
    found = suite.find(f"testcase[@name='{name}']")
    assert found is not None
    return found


def test_a_host_in_order_passes_all_its_tests() -> None:
    suite = suites(check_at(0, judged("gpu-01")))["gpu-01"]

    assert [element.get("name") for element in suite] == ["check", *COMPONENTS]
    assert [len(element) for element in suite] == [0] * (1 + len(COMPONENTS))
    assert suite.get("failures") == suite.get("errors") == suite.get("skipped") == "0"


def test_drift_is_a_failure_that_holds_the_diff() -> None:
    failure = case(suites(office())["gpu-02"], "opencode").find("failure")

    assert failure is not None
    assert failure.get("message") == (
        "/home/dev/.config/opencode/opencode.json: 1 of our keys differs"
    )
    assert '+      "options": {"baseURL": "http://10.0.0.12:8888/v1"}' in (failure.text or "")


def test_several_findings_of_a_component_are_one_failure() -> None:
    failures = case(suites(office())["gpu-02"], "llama_server").findall("failure")

    assert len(failures) == 1
    assert failures[0].get("message", "").startswith("3 differences: /etc/systemd/system/")
    assert "running: llama-server@coder.service: serves" in (failures[0].text or "")


def test_an_unreachable_host_is_an_error_and_its_components_are_skipped() -> None:
    suite = suites(office())["gpu-03"]
    error = case(suite, "check").find("error")

    assert error is not None
    assert (error.get("message"), error.get("type")) == (UNREACHABLE, "unreachable")
    assert (suite.get("errors"), suite.get("skipped")) == ("1", str(len(COMPONENTS)))


def test_what_was_found_before_a_check_broke_off_is_a_failure() -> None:
    suite = suites(check_at(0, HostReport("gpu-01", "error", (MODE,), "time limit of 60 s")))[
        "gpu-01"
    ]

    assert case(suite, "llama_server").find("failure") is not None
    counted = (suite.get("errors"), suite.get("failures"), suite.get("skipped"))
    assert counted == ("1", "1", str(len(COMPONENTS) - 1))


def test_news_from_upstream_fail_nothing() -> None:
    found = suites(office())
    news = case(found["gpu-01"], "cuda")

    assert [element.tag for element in news] == ["system-out"]
    assert found["gpu-01"].get("failures") == "0"
    assert [element.get("name") for element in found["lock file"]] == ["llama_cpp", "models"]
    assert found["lock file"].get("failures") == "0"


@REPORT_SETTINGS
@given(REPORTS)
def test_any_report_is_well_formed_and_its_totals_are_right(report: DriftReport) -> None:
    root = ET.fromstring(render_junit(report).encode())

    for holder in (root, *root.iter("testsuite")):
        assert int(holder.get("tests", "")) == len(list(holder.iter("testcase")))
        assert int(holder.get("failures", "")) == len(list(holder.iter("failure")))
        assert int(holder.get("errors", "")) == len(list(holder.iter("error")))
        assert int(holder.get("skipped", "")) == len(list(holder.iter("skipped")))
    bad = len(list(root.iter("failure"))) + len(list(root.iter("error")))
    assert (bad == 0) == (report.exit_code == 0)


@REPORT_SETTINGS
@given(REPORTS)
def test_every_host_and_finding_of_any_report_is_in_the_xml(report: DriftReport) -> None:
    root = ET.fromstring(render_junit(report).encode())
    names = [suite.get("name") for suite in root.iter("testsuite")]

    assert names[: len(report.hosts)] == [printable(host.name) for host in report.hosts]
    for host, suite in zip(report.hosts, root.iter("testsuite"), strict=False):
        text = "\n".join(suite.itertext())
        for finding in host.findings:
            said = f"{finding.plane}: {finding.subject}: {finding.summary}"
            assert printable(said) in text
