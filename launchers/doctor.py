"""Check whether this machine and environment can train, and show remedies for problems."""

import sys
from pathlib import Path

try:
    from uml_dist.commands.doctor import main
    from uml_dist.launch import end_process
except ModuleNotFoundError as missing:
    print(
        f"error: {sys.executable} has no {missing.name}: run make install, then .venv/bin/python launchers/doctor.py",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

if __name__ == "__main__":
    # Not sys.exit, because the thread of a hanging check may still run.
    end_process(main(root=Path(__file__).resolve().parents[1]))
