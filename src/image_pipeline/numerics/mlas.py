"""Single operators of ONNX Runtime, computed in place by address with one thread."""

import functools
from collections.abc import Hashable
from typing import Any

import numpy as np

DOMAINS = {"": 17, "com.microsoft": 1}


@functools.cache
def operator(name: str, domain: str = "", double: bool = False, **attributes: Hashable) -> Any:
    """Return a session that computes one operator of two inputs, `x` and `y`.

    Args:
        name: of the operator.
        domain: of the operator, one of `DOMAINS`.
        double: float64 instead of float32.
        attributes: of the operator; lists as tuples.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    dtype = TensorProto.DOUBLE if double else TensorProto.FLOAT
    shapeless = [helper.make_tensor_value_info(each, dtype, None) for each in ("x", "y", "out")]
    node = helper.make_node(name, ["x", "y"], ["out"], domain=domain, **attributes)
    graph = helper.make_graph([node], name, shapeless[:2], shapeless[2:])
    opsets = [helper.make_opsetid(*each) for each in DOMAINS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # As it is: on x86-64 a convolution would become one in blocks of channels, with other sums.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def compute(session: Any, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Write an operator's result to `out`; all three are contiguous."""
    binding = session.io_binding()  # by address: nothing is copied
    for name, array in (("x", x), ("y", y)):
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
    session.run_with_iobinding(binding)
