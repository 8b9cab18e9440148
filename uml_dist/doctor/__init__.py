"""Checks whether this machine and environment can train, with remedies for problems; used by `launchers/doctor.py`."""
