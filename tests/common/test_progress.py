"""Progress tells how much, how fast and how long, and keeps quiet in a pipe."""

import io

from deploys.common.progress import Amount, Display, Track, human_bytes, human_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_bytes_and_durations_read_as_people_write_them() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 17_520_169_312)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "16.3 GiB",
    ]
    assert [human_seconds(n) for n in (0, 45, 600, 3900)] == ["0 s", "45 s", "10 min", "1 h 05 min"]


def test_a_transfer_tells_amount_rate_and_time_left() -> None:
    clock = Clock()
    track = Track(clock)
    track.describe(Amount(0, 100 * 1024**2, "bytes"))
    clock.now = 10
    text = track.describe(Amount(50 * 1024**2, 100 * 1024**2, "bytes"))
    assert text == " 50% 50.0 MiB of 100.0 MiB, 5.0 MiB/s, 10 s left"


def test_a_resumed_transfer_does_not_count_what_was_there_before() -> None:
    clock = Clock()
    track = Track(clock)
    track.describe(Amount(90, 100, "bytes"))
    clock.now = 1
    assert "5 B/s" in track.describe(Amount(95, 100, "bytes"))


def test_steps_are_counted_as_the_build_counts_them() -> None:
    assert Track(Clock()).describe(Amount(54, 216)) == " 25% step 54 of 216"


def test_a_pipe_gets_a_line_at_each_tenth_and_one_in_thirty_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, clock)
    for second in range(60):
        clock.now = second
        display.show("gpu-01", "building", f"{second}", tenth=0)
    display.show("gpu-01", "building", "a tenth", tenth=1)
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["0", "30", "tenth"]


def test_a_terminal_gets_one_line_that_moves_and_goes_away() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    display = Display(stream, Clock())
    display.show("gpu-01", "building", "x" * 200)
    display.show("gpu-02", "building", "half")
    display.finish("gpu-01")
    display.finish("gpu-02")
    assert "\n" not in stream.getvalue()
    shown = stream.getvalue().split("\r\033[K")
    assert all(len(text) < 80 for text in shown)
    assert shown[2].endswith("(+1 hosts)")
    assert shown[-1] == ""
