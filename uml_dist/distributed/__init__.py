"""Communication between ranks, and sums over the global batch."""
