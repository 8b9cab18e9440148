"""Checks that training on the N GPUs of a machine is correct, and measures its speed; used by `make cluster-check`."""
