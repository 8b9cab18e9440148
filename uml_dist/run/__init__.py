"""The run folder: writing and reading configuration, status and checkpoints."""
