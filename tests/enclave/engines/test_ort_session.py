import numpy as np
import pytest

from ephemeralml.enclave.engines.onnx_graph import ElementType, Graph
from ephemeralml.enclave.engines.ort_session import OrtSession
from ephemeralml.errors import UnavailableError


def product(rows: int = 2) -> bytes:
    graph = Graph("test")
    value = graph.input("x", ElementType.FLOAT, ("n", rows))
    graph.output(graph.node("MatMul", [value, graph.weight("w", (rows, 2))], domain=""), ElementType.FLOAT, ("n", 2))
    return graph.to_bytes()


WEIGHT = np.arange(4, dtype=np.float32).reshape(2, 2)


def test_a_graph_runs_over_weights_that_are_not_copied() -> None:
    weight = WEIGHT.copy()
    session = OrtSession(product(), {"w": weight}, threads=1)
    assert session.run({"x": np.eye(2, dtype=np.float32)}).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        (b"no graph", {"w": WEIGHT}),
        (product(), {}),
        (product(), {"other": WEIGHT}),
        (product(3), {"w": WEIGHT}),
        (product(), {"w": np.asfortranarray(WEIGHT)}),
        (product().replace(b"MatMul", b"NoSuch"), {"w": WEIGHT}),
    ],
)
def test_what_cannot_be_loaded_is_unavailable(model: bytes, weights: dict[str, np.ndarray]) -> None:
    with pytest.raises(UnavailableError, match="cannot load"):
        OrtSession(model, weights, threads=1)


@pytest.mark.parametrize("value", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.int32), np.zeros(2, np.float32)])
def test_what_cannot_be_run_is_unavailable(value: np.ndarray) -> None:
    session = OrtSession(product(), {"w": WEIGHT}, threads=1)
    with pytest.raises(UnavailableError, match="failed to run"):
        session.run({"x": value})
