"""ONNX Runtime behind two calls: open a session over weights in memory, run it.

The only module that knows the runtime's options and exceptions.
"""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from ephemeralml.errors import UnavailableError

_ONLY_ERRORS = 3
_FAILURES = (
    RuntimeError,
    ValueError,
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NotImplemented,
    states.RuntimeException,
)
"""The runtime's exceptions have no base of their own."""


class OrtSession:
    """A loaded graph with one output. Safe to run from several threads."""

    def __init__(self, model: bytes, weights: Mapping[str, NDArray[np.float32]], *, threads: int) -> None:
        """Load *model* over *weights*, which are not copied.

        Args:
            model: The graph; its initialisers are declared external.
            weights: Initialisers by name, C-contiguous.
            threads: Threads within one run.

        Raises:
            UnavailableError: The runtime cannot load it, for want of memory for example.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is fused as built
        options.log_severity_level = _ONLY_ERRORS
        # Spinning threads would take the cores from the channel and from other models while nothing runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            values = [ort.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
            options.add_external_initializers(list(weights), values)
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise UnavailableError("ONNX Runtime cannot load the model") from error
        self._weights = weights  # the session reads them where they lie and does not own them

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Return the graph's output for *feeds*.

        Raises:
            UnavailableError: The runtime failed, for want of memory for example.
        """
        try:
            output: NDArray[np.float32] = self._session.run(None, feeds)[0]
        except _FAILURES as error:
            raise UnavailableError("ONNX Runtime failed to run the model") from error
        return output
