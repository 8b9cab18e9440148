"""Ends the process of a rank."""

import atexit
import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Exit like `sys.exit`, including the atexit handlers, but without finalizing the interpreter.

    Threads of gloo live as long as a process group that DeepSpeed still references, and need the interpreter once more
    to release tensors. If the interpreter is being finalized at that moment, the process aborts and a run that
    succeeded appears to have failed (pytorch/pytorch#179291).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
