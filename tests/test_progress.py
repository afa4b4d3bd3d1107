"""What a user sees of work that takes time, on a terminal and in a pipe."""

import io
import logging
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest
from rich import console as rich_console

from sae_nfm import progress

LONGEST = "linear_alone_nfm_for_kl_reconstruction"


class Screen(io.StringIO):
    """A terminal within a context; `text` is what it was sent, without what moves its cursor."""

    def __enter__(self):
        self.standing_in = redirect_stderr(self)
        return self.standing_in.__enter__()

    def __exit__(self, *exception):
        return self.standing_in.__exit__(*exception)

    def isatty(self):
        return True

    @property
    def text(self):
        return rich_console.Text.from_ansi(self.getvalue()).plain


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 80 columns."""
    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Screen()


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    time = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: time.now)
    return time


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def last_line(screen):
    return screen.text.rstrip().splitlines()[-1]


def test_a_terminal_has_a_line_with_all_that_matters(screen, said):
    with screen, progress.stage(2, 4, "nfm"), progress.line("nfm", 1_000_000) as line:
        line.at(512_000, "residual EV 0.1215")
    assert all(part in screen.text for part in ("2/4 nfm", "residual EV 0.1215", "512k", "tokens", "/s"))
    assert [text.partition(" in ")[0] for text in said()] == ["2/4 nfm: 512k tokens"]


@pytest.mark.parametrize("name", ["sae", "nfm_for_kl_reconstruction", LONGEST])
def test_nothing_is_cut_in_80_columns(screen, name):
    with screen, progress.stage(11, 12, name), progress.line(name, 123_456_789) as line:
        line.at(98_765_432, "residual EV 0.1215")
    shown = screen.text.rstrip().splitlines()
    assert max(map(len, shown)) <= 80
    assert "…" not in screen.text
    assert any("residual EV 0.1215 " in row and row[-3] == ":" for row in shown)
    assert all(word in screen.text for word in name.split("_"))


def test_what_is_there_already_is_said(screen):
    with screen, progress.stage(1, 4, "sae"):
        pass
    assert last_line(screen) == "1/4 sae         nothing to make"


def test_a_warning_comes_above_the_line_and_details_do_not(screen):
    handler = progress.Terminal()
    with screen, progress.line("sae", 100) as line:
        for name, level in (("sae_nfm.data.tokens", "INFO"), ("sae_nfm.data.tokens", "WARNING")):
            record = logging.makeLogRecord({"name": name, "levelno": getattr(logging, level), "msg": level})
            handler.handle(record)
        line.at(50)
        handler.handle(logging.makeLogRecord({"name": progress.__name__, "levelno": 20, "msg": "LINE"}))
    assert "WARNING" in screen.text
    assert "INFO" not in screen.text
    assert "LINE" not in screen.text


def test_a_pipe_has_a_log_line_now_and_then_and_one_at_the_end(clock, said):
    with progress.stage(1, 4, "sae"), progress.line("sae", 100_000) as line:
        for step in range(1, 101):
            clock.now += 1
            line.at(step * 1000, f"EV 0.{step}")
    assert said() == [
        "1/4 sae: 30k/100k tokens, 1k/s, EV 0.30, 1:10 left",
        "1/4 sae: 60k/100k tokens, 1k/s, EV 0.60, 0:40 left",
        "1/4 sae: 90k/100k tokens, 1k/s, EV 0.90, 0:10 left",
        "1/4 sae: 100k tokens in 1:40, 1k/s, EV 0.100",
    ]


def test_the_rate_of_a_resumed_run_is_its_own(clock, said):
    with progress.line("sae", 100_000, done=90_000) as line:
        clock.now = 10.0
        line.at(100_000)
    assert said() == ["sae: 100k tokens in 0:10, 1k/s"]


def test_work_that_fails_is_not_said_to_be_done(clock, said):
    with pytest.raises(ValueError, match="broken"), progress.line("sae", 100):
        raise ValueError("broken")
    assert said() == []


def test_other_processes_say_nothing(monkeypatch, screen, said):
    monkeypatch.setattr(progress, "_IS_SILENT", False)
    progress.silence()
    with screen, progress.stage(1, 1, "sae"), progress.line("sae", 100) as line:
        line.at(50)
    with screen, progress.stage(1, 1, "sae"):
        pass
    assert (screen.getvalue(), said()) == ("", [])


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (512, "512"), (999.9, "1k"), (51_200, "51.2k"), (7_970_000, "7.97M"), (3e9, "3B")],
)
def test_numbers_have_three_digits(number, words):
    assert progress.short(number) == words
