"""Texts of other parties: what of them is stored, logged and shown."""

import io
import logging

import pytest
from fedgrpo.common.cli.options import plain, plain_lines
from fedgrpo.common.foreign import LINE_CHARACTERS, printable, quoted, safe_logger
from hypothesis import given
from hypothesis import strategies as st

ESC = "\x1b[2J\x1b[31m"


@given(st.text(), st.integers(2, 60))
def test_a_printable_text_is_one_line_within_its_length_and_stays_as_it_is(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert printable(shown, limit) == shown


@pytest.mark.parametrize("text", ["", "operator=+", "Größe=groß", "答案", "a b", "±3 · é"])
def test_what_prints_is_not_changed(text):
    assert printable(text) == text


def test_what_does_not_print_can_be_read():
    assert printable("a\nb\tc\r\x1b[0m\x7f\x9b\u202e\u2028\ud800") == (r"a\nb\tc\r\x1b[0m\x7f\x9b\u202e\u2028\ud800")
    assert len(quoted("x" * 10**6)) == 80
    assert str(plain(f"[red]{ESC}")) == r"[red]\x1b[2J\x1b[31m"
    assert str(plain_lines("a\nb\x1b")) == "a\nb\\x1b"


@pytest.fixture
def log():
    logger, stream = safe_logger("fedgrpo.test-foreign"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


def test_a_logged_text_forges_no_line_and_gives_no_orders_to_a_terminal(log):
    logger, stream = log
    logger.error("the server's setting is %s", f"q_proj\nINFO everything is allowed {ESC}")
    logger.error("%s", "x" * 10**6)
    first, second, rest = stream.getvalue().split("\n")
    assert first == r"ERROR the server's setting is q_proj\nINFO everything is allowed \x1b[2J\x1b[31m"
    assert len(second) <= LINE_CHARACTERS + len("ERROR ")
    assert rest == ""


def test_a_traceback_stays_readable_and_none_of_its_lines_can_be_taken_for_a_message(log):
    logger, stream = log
    try:
        raise ValueError(f"bad\nINFO forged {ESC}")
    except ValueError:
        logger.exception("it failed")
    first, *others = stream.getvalue().rstrip("\n").split("\n")
    assert first == "ERROR it failed"
    assert len(others) > 2
    assert all(line.startswith("  | ") for line in others)
    assert "\x1b" not in stream.getvalue()


def test_a_logger_is_made_safe_once():
    assert len(safe_logger("fedgrpo.test-foreign").filters) == len(safe_logger("fedgrpo.test-foreign").filters) == 1
