"""How commands report errors that users can fix."""

import os
import pickle

import pytest

from uml_shards.errors import STOPPED, ShardError, one_line, print_error, reading, run_command


def fail() -> int:
    raise ShardError("tar a.tar is missing: copy it again")


def test_exit_code_is_that_of_the_command(capsys):
    assert run_command(lambda: 3, debug=False) == 3
    assert capsys.readouterr() == ("", "")


def test_an_error_that_users_can_fix_is_one_line_on_stderr(capsys):
    assert run_command(fail, debug=False) == 2
    assert capsys.readouterr() == ("", "error: tar a.tar is missing: copy it again\n")


def test_an_error_of_the_system_is_one_line(capsys):
    assert run_command(lambda: len(os.listdir("a" * 300)), debug=False) == 2
    assert capsys.readouterr().err == f"error: [Errno 36] File name too long: '{'a' * 300}'\n"


def test_debug_and_other_errors_keep_their_traceback():
    with pytest.raises(ShardError):
        run_command(fail, debug=True)
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, debug=False)
    with pytest.raises(ShardError):
        run_command(fail, debug=False, errors=(KeyError,))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\n lines"), "two lines"),
        (KeyError(7), "KeyError: 7"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (OSError(36, "File name too long", "/a/b"), "File name too long"),
        (ValueError("7" * 5000), "7" * 300),
    ],
)
def test_any_error_while_reading_is_one_line_that_names_the_file(error, reason):
    with pytest.raises(ShardError) as caught, reading("a.nii", "mask"):
        raise error
    assert (str(caught.value), caught.value.reason) == (f"a.nii cannot be read: {reason}", "mask")


def test_errors_that_name_their_cause_are_not_changed_while_reading():
    with pytest.raises(ShardError, match=r"^tar a\.tar is missing: copy it again$"), reading("a.nii"):
        fail()
    with pytest.raises(KeyboardInterrupt), reading("a.nii"):
        raise KeyboardInterrupt


HOSTILE = ("\x1b[2J\nerror: forged", "a" * 10**6, "\u202e\udcff")


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_message_contains_is_one_printable_line(text, capsys):
    def fail() -> int:
        raise ShardError(f"{text} is missing")

    assert run_command(fail, debug=False) == 2
    print_error(text)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") and line.isprintable() and len(line) <= 1007 for line in lines)
    assert one_line(OSError(text)).isprintable()


def test_an_error_survives_the_way_from_a_worker_process():
    error = pickle.loads(pickle.dumps(ShardError("\x1b[2J", "mask")))
    assert (str(error), error.reason) == ("\\x1b[2J", "mask")


def test_ctrl_c_is_one_line_and_the_exit_code_of_a_stop(capsys):
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_command(interrupted, debug=False) == STOPPED == 75
    assert capsys.readouterr() == ("", "stopped: repeat the command to continue\n")
