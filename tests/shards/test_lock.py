"""A locked file belongs to one process until it ends."""

import os
import signal
import subprocess
import sys

from uml_shards.lock import lock_file

HOLDER = "import sys, time; from pathlib import Path; from uml_shards.lock import lock_file\n"
HOLDER += "assert lock_file(Path(sys.argv[1]), 0) is not None; print(flush=True); time.sleep(600)"


def test_the_lock_of_another_process_is_refused_until_it_is_killed(tmp_path):
    path = tmp_path / "folder" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"\n"
    assert lock_file(path, 0) is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock_file(path, 0) is not None


def test_a_lock_on_a_removed_file_holds_nothing(tmp_path):
    path = tmp_path / "lock"
    first = lock_file(path, 0)
    path.unlink()
    second = lock_file(path, 0)
    assert None not in (first, second)
    assert os.fstat(first).st_ino != os.fstat(second).st_ino
    assert lock_file(path, 0) is None
