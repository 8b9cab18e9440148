"""The repair of Triton 3.6's interpreter under NumPy 2.4, which these tests need."""

from types import SimpleNamespace

import numpy as np
import pytest

from interpreter import repair_interpreter


def test_the_interpreter_takes_arrays_of_one_element_as_integers(monkeypatch):
    runtime = pytest.importorskip("triton.runtime.interpreter")

    def of_triton_3_6(tensor, scope):
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data))

    class OneElement:
        handle = SimpleNamespace(data=np.array([3]))

    monkeypatch.setattr(runtime, "_patch_lang_tensor", of_triton_3_6)
    repair_interpreter()
    repair_interpreter()  # no harm done
    scope = SimpleNamespace(set_attr=setattr)
    runtime._patch_lang_tensor(OneElement, scope)
    assert range(5)[OneElement()] == 3
