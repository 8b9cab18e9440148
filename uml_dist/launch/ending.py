"""The end of a rank's process."""

import atexit
import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """End as `sys.exit` does, the handlers of atexit included, but without taking the interpreter apart.

    Threads of gloo, which live as long as a group that DeepSpeed still refers to, ask for the interpreter once more to
    let go of tensors. If it is being taken apart just then, the process aborts, and a run that was done looks failed
    (pytorch/pytorch#179291).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
