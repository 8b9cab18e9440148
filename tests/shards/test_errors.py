"""How commands report errors that users can fix."""

import pytest

from uml_shards.errors import STOPPED, ShardError, run_command


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


def test_ctrl_c_is_one_line_and_the_exit_code_of_a_stop(capsys):
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_command(interrupted, debug=False) == STOPPED == 75
    assert capsys.readouterr() == ("", "stopped: repeat the command to continue\n")
