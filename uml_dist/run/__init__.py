"""What a run folder holds: its configuration, status and checkpoints, and who reads them."""
