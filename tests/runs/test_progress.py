import errno
import io

import pytest
from rich.console import Console

from steep.runs.progress import Progress, amount, duration, number, printable


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_plain(every_s, steps=30):
    file, clock = io.StringIO(), Clock()
    with Progress(steps, "rl", console=Console(file=file, width=20), clock=clock) as progress:
        for step in range(steps):
            clock.now += every_s
            progress.update(step + 1, {"reward": 0.41234, "thought": 182, "tokens/s": 51234.5, "level": "two"})
    return file.getvalue().splitlines()


def test_plain_lines_come_every_ten_seconds():
    lines = run_plain(every_s=2.0)
    assert lines[0] == "rl: 0/30"
    assert lines[1] == "rl: 5/30, 2 s each, 50 s left | reward 0.412, thought 182, tokens/s 51,234, level two"
    assert lines[-1].startswith("rl: 30/30, 2 s each | ")
    assert len(lines) == 7


def test_short_commands_print_the_first_and_the_last_line():
    assert len(run_plain(every_s=0.01)) == 2


def test_loop_that_ends_early_prints_where():
    file, clock = io.StringIO(), Clock()
    with Progress(9, "rl", console=Console(file=file), clock=clock) as progress:
        progress.update(1)
        progress.update(2)
    assert file.getvalue().splitlines() == ["rl: 0/9", "rl: 2/9"]


def test_rate_counts_new_steps_only_and_forgets_old_ones():
    clock = Clock()
    progress = Progress(10_000, "rl", start=5000, console=Console(file=io.StringIO()), clock=clock)
    clock.now = 10
    progress.update(5010)
    assert progress._rate.per_second == 1.0
    for _ in range(100):
        clock.now += 10
        progress.update(progress._done + 100)
    assert 9.9 < progress._rate.per_second < 10


def test_unknown_total():
    file, clock = io.StringIO(), Clock()
    with Progress(None, "pull", console=Console(file=file), clock=clock) as progress:
        clock.now = 20
        progress.update(40)
    assert file.getvalue().splitlines() == ["pull: 0", "pull: 40, 2/s"]


@pytest.mark.parametrize("width", [1, 5, 20, 80, 300])
@pytest.mark.parametrize("total", [0, 3, None])
def test_any_width_of_terminal(width, total):
    file, clock = io.StringIO(), Clock()
    with Progress(total, "rl", console=Console(file=file, force_terminal=True, width=width), clock=clock) as progress:
        for step in range(3):
            clock.now += 1
            progress.update(step + 1, {"reward": 0.5, "thought": "long " * 20})
            progress.note("a note")
            progress.sample("a thought")
    assert file.getvalue()


def test_terminal_shows_bar_and_metrics():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    clock = Clock()
    progress = Progress(4, "rl", console=console, clock=clock)
    clock.now = 2
    progress.update(2, {"reward": 0.5})
    with console.capture() as captured:
        console.print(progress._render())
    bar = "━" * 15 + "─" * 15
    assert [line.rstrip() for line in captured.get().splitlines()] == [f"rl {bar} 2/4 1/s 2 s left", "reward 0.5"]


def test_model_text_cannot_command_the_terminal():
    assert printable("a\x1b[2Jb\r\x00\u202e\x9b\ud800é\n中") == r"a\x1b[2Jb\r\x00\u202e\x9b\ud800é" + "\n中"
    assert printable("é中", "ascii") == r"\xe9\u4e2d"
    file, clock = io.StringIO(), Clock()
    with Progress(1, "rl", console=Console(file=file, force_terminal=True), clock=clock) as progress:
        progress.sample("[red]\x1b]0;title\x07[/red]")
    assert r"[red]\x1b]0;title\x07[/red]" in file.getvalue()


def test_samples_are_shown_now_and_then():
    file, clock = io.StringIO(), Clock()
    with Progress(1, "rl", console=Console(file=file), clock=clock) as progress:
        for second in range(61):
            clock.now = second
            progress.sample(f"thought {second}\nsecond line " + "x" * 1000)
    lines = file.getvalue().splitlines()
    assert [line for line in lines if "thought" in line] == ["  | thought 0", "  | thought 30", "  | thought 60"]
    assert max(map(len, lines)) < 700


def test_narrow_encodings():
    raw = io.BytesIO()
    for force_terminal in (False, True):
        file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        clock = Clock()
        with Progress(2, "é", console=Console(file=file, force_terminal=force_terminal), clock=clock) as progress:
            clock.now = 11
            progress.update(1, {"größe": 1})
            progress.note("中")
        file.detach()
    assert rb"\u4e2d" in raw.getvalue()


@pytest.mark.parametrize(
    ("force_terminal", "error"), [(False, BrokenPipeError()), (True, OSError(errno.EIO, "Input/output error"))]
)
def test_stream_that_goes_away_does_not_end_the_loop(force_terminal, error):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    closed = io.StringIO()
    for file in (Gone(), closed):
        clock = Clock()
        with Progress(2, "rl", console=Console(file=file, force_terminal=force_terminal), clock=clock) as progress:
            closed.close()
            clock.now = 11
            progress.update(1)
            progress.note("still here")


def test_words_for_numbers_and_times():
    assert [number(x) for x in (0, 7, 12345, 0.01234, 1.0, 99.96, 412.3, float("nan"))] == [
        "0", "7", "12,345", "0.0123", "1", "100", "412", "nan",
    ]  # fmt: skip
    assert [amount(count) for count in (0, 999, 4500, 12_340_000, 2 * 10**9)] == [
        "0 B", "999 B", "4.5 kB", "12.3 MB", "2 GB",
    ]  # fmt: skip
    assert [duration(s) for s in (0.2, 59, 200, 3720, 190_000)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "1 h 02 min",
        "2 d 4 h",
    ]


def test_steps_that_are_not_alike_have_no_rate():
    file, clock = io.StringIO(), Clock()
    with Progress(3, "study", rated=False, console=Console(file=file), clock=clock) as progress:
        for done in (1, 2, 3):
            clock.now += 60
            progress.update(done, {"failed": 1}, ["0/main: rl 12/24"])
    assert file.getvalue().splitlines() == ["study: 0/3", *(f"study: {done}/3 | failed 1" for done in (1, 2, 3))]


def test_lines_below_the_bar_are_for_a_terminal():
    file = io.StringIO()
    with Progress(3, "study", console=Console(file=file, force_terminal=True, width=40)) as progress:
        progress.update(1, None, ["0/main: rl 12/24", "0/further: sft 3/9"])
    assert "0/main: rl 12/24" in file.getvalue()
    assert "0/further: sft 3/9" in file.getvalue()
