"""The last lines of a run name who failed, at what, and why."""

from deploys.common.summary import Failure, last_words, render, render_verdicts

GONE = Failure("gpu-02", "connect", "could not connect to ops@10.0.0.12")
PORT = Failure("gpu-03", "Preflight | Check", "port 8888 is taken by nginx")


def test_nothing_is_said_of_a_good_run() -> None:
    assert render((), 3) == ""


def test_each_failed_host_is_named_with_operation_and_reason() -> None:
    assert render((GONE, PORT), 3).splitlines() == [
        "--> 2 hosts failed; the others went on:",
        "    gpu-02: connect: could not connect to ops@10.0.0.12",
        "    gpu-03: Preflight | Check: port 8888 is taken by nginx",
    ]


def test_no_others_are_claimed_where_there_are_none() -> None:
    assert render((GONE,), 1).splitlines()[0] == "--> 1 host failed:"


def test_of_a_command_that_failed_the_last_line_counts_that_says_anything() -> None:
    lines = ["mktemp: failed", "base64: write error: No space left on device", "", " "]
    assert last_words(lines) == "base64: write error: No space left on device"
    assert last_words([]) == ""


def test_several_reasons_have_a_line_each() -> None:
    both = Failure("gpu-03", "Preflight | Check", "a: b; c: d", ("a: b", "c: d"))
    assert render((both,), 1).splitlines()[1:] == [
        "    gpu-03: Preflight | Check:",
        "        a: b",
        "        c: d",
    ]


def test_preflights_table_has_the_hosts_that_it_stops() -> None:
    good = {"rights": True, "disk": True}
    assert render_verdicts({}) == render_verdicts({"gpu-01": good}) == ""
    assert render_verdicts({"gpu-01": good, "gpu-02": {"rights": True, "disk": False}}) == (
        "--> preflight:\n    HOST    RIGHTS  DISK\n    gpu-02  ok      NO\n    1 other is in order"
    )
