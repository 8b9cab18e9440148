"""Text that others wrote reaches terminals, tables and pages without taking effect there."""

import csv
import io

import pytest

from uml_shards.text import csv_table, csv_value, markdown, markdown_code, message_of, printable, shorten


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Läsion 1, 病变", "Läsion 1, 病变"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\nerror: forged\r", "a\\nerror: forged\\r"),
        ("a\u202eb\u200bc\xa0d\u2028", "a\\u202eb\\u200bc\\xa0d\\u2028"),
        ("\x9b2J\udcff", "\\x9b2J\\udcff"),
    ],
)
def test_characters_that_act_on_a_terminal_are_shown_as_escapes(text, expected):
    assert printable(text) == expected
    assert message_of(text) == expected


def test_a_text_is_shortened_in_its_middle():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcd…ghijk"
    assert len(message_of("\x1b" * 10**6)) == 1000


FORMULAS = ['=HYPERLINK("http://x")', "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\uff1d1+1", "-", "'=1"]
OTHERS = ["", "benign", "-1.5", "+2", "-3e-05", "'quoted'", "a=b", 'x,"y"', "1-2"]


def test_formulas_become_text_in_csv_and_numbers_stay_numbers():
    rows = list(csv.reader(io.StringIO(csv_table([["key", "value"], *([cell, -1.5] for cell in FORMULAS)]))))
    assert rows == [["key", "value"], *([f"'{cell}", "-1.5"] for cell in FORMULAS)]
    assert list(csv.reader(io.StringIO(csv_table([OTHERS])))) == [OTHERS]


def test_a_cell_of_csv_is_one_line():
    assert csv_table([["\t=1", "a\r\n=1"]]) == "\\t=1,a\\r\\n=1\n"


@pytest.mark.parametrize("cell", FORMULAS + OTHERS)
def test_a_reader_of_csv_gets_the_cell_that_was_written(cell):
    ((read, _),) = csv.reader(io.StringIO(csv_table([[cell, 0]]), newline=""))
    assert csv_value(read) == cell


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<img src=x onerror=1>", "&lt;img src=x onerror=1&gt;"),
        ("[x](javascript:1)", "\\[x\\](javascript:1)"),
        ("![x](http://y)", "!\\[x\\](http://y)"),
        ("a | b", "a \\| b"),
        ("`a` *b* __c__ ~~d~~ $e$", "\\`a\\` \\*b\\* \\_\\_c\\_\\_ \\~\\~d\\~\\~ \\$e\\$"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("image_ece, mean(accuracy, dice)", "image_ece, mean(accuracy, dice)"),
        ("a\n# b", "a\\\\n# b"),
    ],
)
def test_markdown_and_html_are_shown_as_they_are_written(text, expected):
    assert markdown(text) == expected


def test_code_cannot_end_its_quotes():
    assert markdown_code("uml") == "`uml`"
    assert markdown_code("a`<b>") == "a\\`&lt;b&gt;"
