"""What `progress` may be, and the bar that comes ready made."""

import io
import itertools
import re

import pytest
from rich.console import Console

import factlab as fl
from factlab import progress as module
from factlab.errors import InvalidRequestError
from factlab.progress import ProgressBar, reporting


@pytest.fixture
def clock(monkeypatch):
    """A minute passes at every look at the clock."""
    minutes = itertools.count(step=60)
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(minutes)))


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=100)


def test_true_draws_a_bar_and_takes_it_away(capsys):
    with reporting(True) as report:
        assert isinstance(report, ProgressBar)
        report("tracing", 1, 2)
        assert report.is_shown
    assert not report.is_shown
    assert capsys.readouterr().err == "tracing ...\n"  # no terminal: a line


def test_a_callable_is_used_as_it_is():
    calls = []

    def told(*call):
        calls.append(call)

    with reporting(told) as report:
        report("tracing", 0, 2)
    assert calls == [("tracing", 0, 2)]


@pytest.mark.parametrize("nothing", [False, None])
def test_nothing_is_said_where_nothing_is_wanted(nothing, capsys):
    with reporting(nothing) as report:
        report("tracing", 0, 2)
    assert capsys.readouterr().err == ""


def test_what_is_no_progress_is_refused():
    with pytest.raises(InvalidRequestError, match="Pass True for a bar"), reporting(3):
        pass


def test_one_bar_serves_several_calls(make_model, fact, capsys):
    lm = make_model("gpt2")
    with fl.progress_bar() as bar:
        fl.causal_trace(lm, fact, progress=bar)
        fl.attribute_neurons(lm, fact, progress=bar)
        assert bar.is_shown
    assert capsys.readouterr().err == "tracing ...\nattributing ...\n"


def test_a_bar_outside_a_block_ends_with_the_function(make_model, fact, capsys):
    bar = fl.progress_bar()
    fl.causal_trace(make_model("gpt2"), fact, progress=bar)
    assert not bar.is_shown
    assert capsys.readouterr().err == "tracing ...\n"


def test_the_time_left_is_that_of_all_steps_so_far(clock):
    console = Console(file=io.StringIO(), width=100)
    with ProgressBar(console) as bar:
        bar("tracing", 2, 10)  # two of them were done by an earlier run
        bar("tracing", 4, 10)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "tracing ..."
    # Two steps in so many minutes: six take three times as long.
    minutes = int(lines[1].split("about ")[1].split()[0])
    assert (lines[1].split(",")[0], minutes % 3, minutes > 3) == ("tracing: 4 of 10", 0, True)


def test_a_label_with_others_inside_keeps_its_clock(clock):
    console = Console(file=io.StringIO(), width=100)
    with ProgressBar(console) as bar:
        for done in range(3):
            bar("records", done, 10)
            bar("values", 0, 1)
            bar("values", 1, 1)
    text = console.file.getvalue()
    assert "records: 2 of 10, about" in text
    assert text.count("values ...") == text.count("records ...") == 1


def test_steps_inside_do_not_outshout_a_long_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=100)
    with ProgressBar(console) as bar:
        for minute in range(4):
            now[0] = 60.0 * minute
            for step in range(4):  # the last of them shortly before the next record
                now[0] += 14.9
                bar("values", step, 5)
            bar("records", minute, 10)
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if line.startswith("records: ")] == [
        "records: 1 of 10, about 9 min left",
        "records: 2 of 10, about 8 min left",
        "records: 3 of 10, about 7 min left",
    ]


def test_a_full_bar_does_not_stay():
    console = terminal()
    bar = ProgressBar(console)
    with bar:
        bar("collecting", 1, 2)
        bar._shown._progress.refresh()
        assert "collecting" in console.file.getvalue()
        bar("collecting", 2, 2)
        console.file.truncate(0)
        bar._shown._progress.refresh()
        assert "working" in console.file.getvalue()
        assert "collecting" not in console.file.getvalue()


def test_an_error_ends_the_bar():
    bar = ProgressBar(terminal())
    with pytest.raises(ZeroDivisionError), bar:
        bar("dividing", 0, 1)
        raise ZeroDivisionError
    assert not bar.is_shown


def test_a_bar_takes_one_line_at_80_columns():
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, no_color=True)
    bar = ProgressBar(console)
    with bar:
        for done in (4096, 8192):
            bar("collecting key statistics", done, 1_228_800)
        screen.truncate(0)
        bar._shown._progress.refresh()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).strip("\0\r\n ")
    assert "\n" not in shown
    assert "collecting key statistics" in shown
    assert "8192/1228800" in shown
    assert shown.endswith(" left")
