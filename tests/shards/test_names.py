"""Names that could deceive are refused in one line that shows them safely."""

import pytest

from uml_shards import ShardError
from uml_shards.names import NAME_LENGTH, TEXT_LENGTH, check_file_name, check_name, check_text

DECEPTIVE = {
    "\x1b[2Jx": r"'\\x1b\[2Jx' contains characters that are not printable",
    "a\nerror: forged": r"'a\\nerror: forged' contains characters that are not printable",
    "a\u202eb": r"'a\\u202eb' contains characters that are not printable",
    "a\u200bb": r"'a\\u200bb' contains characters that are not printable",
    "a\xa0b": r"'a\\xa0b' contains characters that are not printable",
    "\udcff": r"'\\udcff' contains characters that are not printable",
    "A" * (NAME_LENGTH + 1): "'A{29}…A{30}' has 101 characters, more than 100",
    "e\u0301": r"'e\u0301' \('e\\u0301'\) is not in Unicode's composed form \(NFC\)",
    "": "'' is blank",
    " \t": r"' \\t' is blank",
    "benign ": "'benign ' has blanks at its ends",
}


@pytest.mark.parametrize("name", DECEPTIVE)
def test_deceptive_names_are_refused_in_one_line(name):
    with pytest.raises(ShardError, match=f"^here: the name {DECEPTIVE[name]}: rename it$") as caught:
        check_name(name, "here")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["benign", "\xe9", "病变 2", '=HYPERLINK("x")', "<b>", "a/b", "A" * NAME_LENGTH])
def test_names_of_any_language_and_sign_are_accepted(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".", "..", ""])
def test_names_of_folders_are_no_paths(name):
    with pytest.raises(ShardError, match="contains / or"):
        check_file_name(name)


def test_text_may_be_longer_than_a_name_but_not_of_several_lines():
    assert check_text("x" * TEXT_LENGTH)
    for text in ("x" * (TEXT_LENGTH + 1), "a\nb", "\x1b[2J"):
        with pytest.raises(ShardError, match=r"^licence: the text '.*: change it$"):
            check_text(text, "licence")
