"""Makes the interpreter of Triton 3.6 work with NumPy 2.4 and newer.

Triton 3.6 turns an array of one element and one dimension into an integer by `int(array)`, in the `__index__` that
`_patch_lang_tensor` in triton/runtime/interpreter.py gives to tensors. NumPy 2.4 raises a TypeError there. Triton 3.7
squeezes the array first, and so does this.
"""

from typing import Any


def repair_interpreter() -> None:
    """Have tensors of one element serve as integers in interpreted kernels; harmless with any version of Triton."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    patch_tensor = getattr(interpreter, "_patch_lang_tensor", None)
    if patch_tensor is None or getattr(patch_tensor, "repaired", False):
        return

    def patch_and_repair(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    patch_and_repair.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patch_and_repair
