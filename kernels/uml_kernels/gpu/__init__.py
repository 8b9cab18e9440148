"""The kernels in Triton, and what launches them; imported when a tensor on a GPU first asks for one."""
