"""The training loop: engines, data, checkpoints and the run folder. It knows no recipe by name."""
