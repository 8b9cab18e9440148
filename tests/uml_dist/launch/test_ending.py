"""A process ends with its exit code, its output and its atexit handlers."""

import subprocess
import sys

PROGRAM = """
import atexit, sys
from uml_dist.launch import end_process
atexit.register(print, "handled")
sys.stdout.write("last words ")
sys.stderr.write("and those of errors")
end_process(3)
print("never")
"""


def test_exit_code_output_and_handlers_are_kept():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "last words handled\n", "and those of errors")
