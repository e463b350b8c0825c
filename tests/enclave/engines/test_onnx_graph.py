import numpy as np
import onnxruntime as ort
import pytest

from ephemeralml.enclave.engines.onnx_graph import ElementType, Graph, varint


def run(graph: Graph, weights: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    values = [ort.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
    options.add_external_initializers(list(weights), values)
    session = ort.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (1 << 35, "808080808001"),
        ((1 << 63) - 1, "ff" * 8 + "7f"),
    ],
)
def test_varints_are_those_of_protobuf(value: int, encoded: str) -> None:
    assert varint(value).hex() == encoded


def test_a_negative_varint_is_a_bug() -> None:
    with pytest.raises(ValueError, match="negative"):
        varint(-1)


def test_the_runtime_reads_the_graph_as_it_was_meant() -> None:
    graph = Graph("test")
    value = graph.input("x", ElementType.FLOAT, ("rows", 3))
    product = graph.node("FusedMatMul", [value, graph.weight("w", (2, 3))], attributes={"transB": 1, "alpha": 0.5})
    total = graph.node("Add", [product, graph.weight("b", (2,))], domain="")
    graph.output(total, ElementType.FLOAT, ("rows", 2))
    x, w, b = (np.random.default_rng(1).random(size, dtype=np.float32) for size in ((5, 3), (2, 3), (2,)))
    (result,) = run(graph, {"w": w, "b": b}, {"x": x})
    assert np.allclose(result, 0.5 * x @ w.T + b, atol=1e-6)


def test_no_weight_is_in_the_bytes() -> None:
    graph = Graph("test")
    value = graph.input("x", ElementType.FLOAT, (1, 4096))
    graph.output(
        graph.node("MatMul", [value, graph.weight("w", (4096, 4096))], domain=""), ElementType.FLOAT, (1, 4096)
    )
    assert len(graph.to_bytes()) < 400


def test_a_shape_is_enforced_by_the_runtime() -> None:
    graph = Graph("test")
    value = graph.input("x", ElementType.INT32, (2,))
    graph.output(graph.node("Identity", [value], domain=""), ElementType.INT32, (2,))
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        run(graph, {}, {"x": np.zeros(3, np.int32)})
