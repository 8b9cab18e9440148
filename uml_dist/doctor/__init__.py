"""Can this machine and this environment train, and what to do where not: what `launchers/doctor.py` is made of."""
