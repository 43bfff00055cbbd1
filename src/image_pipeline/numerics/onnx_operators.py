"""Single operators of ONNX Runtime, whose kernels (MLAS) are alike on x86-64 and ARM."""

import functools
from typing import Any

import numpy as np

OWN_DOMAIN = "com.microsoft"  # of operators that ONNX itself does not define
OPSETS = {"": 17, OWN_DOMAIN: 1}
INPUTS = ("x", "y")


@functools.cache
def _session(name: str, domain: str, count: int, double: bool, **attributes: Any) -> Any:
    import onnxruntime
    from onnx import TensorProto, helper

    dtype = TensorProto.DOUBLE if double else TensorProto.FLOAT
    inputs = INPUTS[:count]
    graph = helper.make_graph(
        [helper.make_node(name, inputs, ["out"], domain=domain, **attributes)],
        name,
        [helper.make_tensor_value_info(each, dtype, None) for each in inputs],
        [helper.make_tensor_value_info("out", dtype, None)],
    )
    opsets = [helper.make_opsetid(*each) for each in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the C library keeps memory for all (see the package)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def compute(name: str, *arrays: np.ndarray, domain: str = "", **attributes: int) -> np.ndarray:
    """Return the result of an operator, with one thread.

    Args:
        name: of the operator.
        arrays: its one or two inputs, contiguous, float32 or float64.
        domain: of the operator.
        attributes: of the operator.
    """
    double = arrays[0].dtype == np.float64
    session = _session(name, domain, len(arrays), double, **attributes)
    [result] = session.run(["out"], dict(zip(INPUTS, arrays, strict=False)))
    array: np.ndarray = result
    return array
