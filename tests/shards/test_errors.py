"""How commands report errors that users can fix."""

import pytest

from uml_shards.errors import ShardError, reading, run_command


def fail() -> int:
    raise ShardError("tar a.tar is missing: copy it again")


def test_exit_code_is_that_of_the_command(capsys):
    assert run_command(lambda: 3, debug=False) == 3
    assert capsys.readouterr() == ("", "")


def test_an_error_that_users_can_fix_is_one_line_on_stderr(capsys):
    assert run_command(fail, debug=False) == 2
    assert capsys.readouterr() == ("", "error: tar a.tar is missing: copy it again\n")


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
