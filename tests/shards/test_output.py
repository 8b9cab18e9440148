"""Output that fails never ends the work of a program, and never leaves a traceback."""

import os
import subprocess
import sys
import time

import pytest

from uml_shards.output import keep_output

WORK = """
import sys
from uml_shards.output import keep_output
keep_output()
for number in range(20_000):
    print("line", number)
print("all work is done", file=sys.stderr)
"""
COMMAND = """
import sys
from uml_shards.errors import run_command
def work():
    print("é" * 10_000)
    return 0
sys.exit(run_command(work, debug=False))
"""


def start(program: str, *options: str, **streams) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *options, "-c", program], stderr=subprocess.PIPE, **streams)


@pytest.mark.parametrize("options", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_a_reader_that_ends_early_ends_nothing_and_nothing_is_said(options):
    process = start(WORK, *options, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    assert process.stderr.read() == b"all work is done\n"
    assert process.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line_and_the_work_goes_on():
    with open("/dev/full", "w") as full:
        process = start(WORK, stdout=full)
        assert process.stderr.read().splitlines() == [
            b"warning: output cannot be written: No space left on device: the rest of it is lost",
            b"all work is done",
        ]
    assert process.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_command_whose_output_is_lost_has_failed():
    with open("/dev/full", "w") as full:
        process = start(COMMAND, stdout=full)
        assert process.stderr.read().count(b"\n") == 1
    assert process.wait() == 2


def test_a_command_whose_reader_ends_early_has_not_failed():
    reader, writer = os.pipe()
    os.close(reader)
    process = start(COMMAND, stdout=writer)
    os.close(writer)
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_program_may_be_started_without_a_stream(descriptor):
    shell = f'"$@" {descriptor}>&-'
    done = subprocess.run(["sh", "-c", shell, "sh", sys.executable, "-c", WORK], capture_output=True)
    assert done.returncode == 0
    assert done.stderr == (b"all work is done\n" if descriptor == 1 else b"")


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=str
)
def test_characters_that_cannot_be_printed_are_escaped(locale):
    program = "from uml_shards.output import keep_output; keep_output(); print('K\\xf6ln', '\\udcff')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env={**os.environ, **locale})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"K\\xf6ln \\udcff\n", b"")


def test_a_full_pipe_that_does_not_block_loses_nothing():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = start(WORK, stdout=writer)
    os.close(writer)
    time.sleep(0.5)  # the pipe is full by now
    with open(reader, "rb") as stream:
        lines = stream.read().splitlines()
    assert lines == [f"line {number}".encode() for number in range(20_000)]
    assert process.stderr.read() == b"all work is done\n"


def test_threads_can_print_while_output_is_given_up():
    reader, writer = os.pipe()
    os.close(reader)
    program = WORK.replace("for number in range(20_000):\n    print", "import threading\nfor number in range(8):\n    ")
    program = program.replace('("line", number)', 'threading.Thread(target=print, args=("line" * 9999,)).start()')
    process = start(program, stdout=writer)
    os.close(writer)
    assert process.stderr.read() == b"all work is done\n"
    assert process.wait() == 0


def test_streams_that_tests_have_replaced_stay(capsys):
    before = sys.stdout
    keep_output()
    assert sys.stdout is before
    print("seen")
    assert capsys.readouterr().out == "seen\n"
