"""Triton kernels and their launchers; imported on the first call with a GPU tensor."""
