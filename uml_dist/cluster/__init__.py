"""Does this machine train rightly on its N GPUs, and how fast: what `make cluster-check` is made of."""
