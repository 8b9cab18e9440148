"""The CPU implementations of the kernels: tensor operations with gradients in closed form."""
