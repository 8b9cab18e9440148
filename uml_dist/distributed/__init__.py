"""What ranks share: sums over the global batch."""
