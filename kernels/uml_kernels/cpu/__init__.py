"""CPU implementations of the kernels: tensor operations with closed-form gradients."""
