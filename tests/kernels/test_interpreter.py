"""Test of the workaround for Triton 3.6's interpreter with NumPy 2.4, which the kernel tests need."""

from types import SimpleNamespace

import numpy as np
import pytest

from interpreter import repair_interpreter


def test_one_element_arrays_convert_to_integers(monkeypatch):
    runtime = pytest.importorskip("triton.runtime.interpreter")

    def of_triton_3_6(tensor, scope):
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data))

    class OneElement:
        handle = SimpleNamespace(data=np.array([3]))

    monkeypatch.setattr(runtime, "_patch_lang_tensor", of_triton_3_6)
    repair_interpreter()
    repair_interpreter()  # idempotent
    scope = SimpleNamespace(set_attr=setattr)
    runtime._patch_lang_tensor(OneElement, scope)
    assert range(5)[OneElement()] == 3
