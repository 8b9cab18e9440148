"""How command lines report wrong arguments."""

import pytest

from uml_shards.arguments import ArgumentParser


@pytest.mark.parametrize("argument", ["--\x1b[2J", "\nerror: forged"])
def test_unknown_arguments_are_repeated_in_one_printable_line(argument, capsys):
    with pytest.raises(SystemExit, match="2"):
        ArgumentParser(prog="p").parse_args([argument])
    lines = capsys.readouterr().err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line.startswith("p: error: ") for line in lines] == [False, True]
