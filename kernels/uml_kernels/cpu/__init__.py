"""The CPU twins of the kernels: tensor operations with gradients in closed form."""
