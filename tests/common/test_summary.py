"""The last lines of a run name who failed, at what, and why."""

from deploys.common.summary import Failure, last_words, render

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
