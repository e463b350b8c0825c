import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ephemeralml.enclave.engines.bert_config import UNSUPPORTED
from ephemeralml.enclave.engines.encoder import MAX_RUN_TOKENS, EncoderEngine, _runs
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model.demo import demo_model_folder
from ephemeralml.model.memory_file import load_bytes
from ephemeralml.model.roles import role_of
from tests.fakes import bert_reference, tiny_bert

if TYPE_CHECKING:
    from ephemeralml.enclave.engines.base import EmbeddingEngine

SENTENCES = ["hello world", "the cat sat on the mat.", "", "a b c d e f g " * 9, "key"]


def load(files: dict[str, bytes], **options: int) -> EncoderEngine:
    memory = tiny_bert.loaded(files)
    try:
        return EncoderEngine.load(memory, **options)
    finally:
        for file in memory.values():
            file.close()


@pytest.fixture(scope="module")
def tiny() -> Iterator[EncoderEngine]:
    engine = load(tiny_bert.contents())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def minilm() -> Iterator[EncoderEngine]:
    try:
        folder = demo_model_folder()
    except UnavailableError as error:
        pytest.skip(error.message)
    memory = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        memory[name] = load_bytes(name, role_of(name), path.read_bytes())
    engine = EncoderEngine.load(memory)
    for file in memory.values():
        file.close()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def sentences(shared: Path) -> list[str]:
    return json.loads((shared / "vectors/minilm/sentences.json").read_text())


@pytest.fixture(scope="module")
def reference(shared: Path) -> np.ndarray:
    return np.load(shared / "vectors/minilm/embeddings.npy")


def test_minilm_alone_equals_the_reference(minilm: EncoderEngine, sentences: list[str], reference: np.ndarray) -> None:
    alone = np.concatenate([minilm.embed([tokens]) for tokens in minilm.tokenize(sentences)])
    assert len(sentences) == 120
    assert (alone * reference).sum(axis=1).min() >= 0.99999


@pytest.mark.parametrize("size", [2, 7, 32, 120])
def test_minilm_in_mixed_batches_equals_the_reference_and_itself_alone(
    minilm: EncoderEngine, sentences: list[str], reference: np.ndarray, size: int
) -> None:
    order = np.random.default_rng(size).permutation(len(sentences))[:40] if size < 120 else np.arange(120)
    tokens = minilm.tokenize([sentences[index] for index in order])
    batched = np.concatenate([minilm.embed(tokens[start : start + size]) for start in range(0, len(tokens), size)])
    alone = np.concatenate([minilm.embed([row]) for row in tokens])
    assert (batched * reference[order]).sum(axis=1).min() >= 0.99999
    assert np.abs(batched - alone).max() <= 1e-6


def test_minilm_is_bitwise_repeatable(minilm: EncoderEngine, sentences: list[str]) -> None:
    tokens = minilm.tokenize(sentences[:24])
    assert np.array_equal(minilm.embed(tokens), minilm.embed(tokens))


def test_minilm_takes_256_tokens_although_its_tokenizer_asks_for_128(minilm: EncoderEngine) -> None:
    (tokens,) = minilm.tokenize(["word " * 1_000])
    assert (len(tokens), tokens[0], tokens[-1]) == (256, 101, 102)
    assert (minilm.dim, minilm.max_tokens, minilm.vocabulary_size) == (384, 256, 30_522)


def test_special_tokens_in_a_text_are_read_as_the_reference_reads_them(minilm: EncoderEngine) -> None:
    assert minilm.tokenize(["[CLS] [MASK]"]) == [[101, 101, 103, 102]]


def test_tiny_equals_a_plain_reimplementation(tiny: EncoderEngine) -> None:
    tensors = tiny_bert.tensors()
    rows = tiny.tokenize(SENTENCES)
    expected = [bert_reference.embed(tensors, tiny_bert.DEFAULT, row) for row in rows]
    assert np.abs(tiny.embed(rows) - np.array(expected)).max() < 2e-6


@pytest.mark.parametrize(
    ("flag", "pool"),
    [
        ("pooling_mode_cls_token", lambda hidden: hidden[0]),
        ("pooling_mode_mean_tokens", lambda hidden: hidden.mean(axis=0)),
        ("pooling_mode_mean_sqrt_len_tokens", lambda hidden: hidden.sum(axis=0) / len(hidden) ** 0.5),
    ],
)
def test_pooling_and_normalisation_follow_the_models_files(flag: str, pool: object) -> None:
    shape = tiny_bert.Shape(pooling=flag, normalize=False)
    engine = load(tiny_bert.contents(shape))
    rows = engine.tokenize(SENTENCES)
    hidden = [bert_reference.hidden_states(tiny_bert.tensors(shape), shape, row) for row in rows]
    assert np.abs(engine.embed(rows) - np.array([pool(states) for states in hidden])).max() < 5e-6


def test_one_request_does_not_change_another(tiny: EncoderEngine) -> None:
    rows = tiny.tokenize(SENTENCES * 20)
    together = tiny.embed(rows)
    for row, vector in zip(rows, together, strict=True):
        assert np.abs(tiny.embed([row])[0] - vector).max() <= 1e-6


def test_results_come_in_the_order_asked(tiny: EncoderEngine) -> None:
    rows = tiny.tokenize(SENTENCES)
    forward, backward = tiny.embed(rows), tiny.embed(rows[::-1])
    assert np.abs(forward - backward[::-1]).max() <= 1e-6


def test_rows_are_unit_vectors(tiny: EncoderEngine) -> None:
    assert np.linalg.norm(tiny.embed(tiny.tokenize(SENTENCES)), axis=1) == pytest.approx(1, abs=1e-6)


def test_no_input_gives_no_rows(tiny: EncoderEngine) -> None:
    assert tiny.embed([]).shape == (0, tiny.dim)


def test_the_engine_is_what_the_runtime_asks_for(tiny: EncoderEngine) -> None:
    engine: EmbeddingEngine = tiny
    assert engine.normalized
    assert (engine.dim, engine.max_tokens, engine.vocabulary_size) == (16, 48, len(tiny_bert.VOCABULARY))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([], "0 tokens"),
        ([1] * 49, "49 tokens"),
        ([2, -1, 3], "outside the vocabulary"),
        ([2, len(tiny_bert.VOCABULARY), 3], "outside the vocabulary"),
        ([2, True, 3], "not an integer"),
        ([2, 1.0, 3], "not an integer"),
        ([2, 1 << 70, 3], "outside the vocabulary"),
    ],
)
def test_embed_refuses_tokens_it_cannot_take(tiny: EncoderEngine, row: list[int], says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        tiny.embed([[2, 3], row])


def test_a_closed_engine_is_not_used() -> None:
    engine = load(tiny_bert.contents())
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.embed([[2, 3]])


def test_files_may_be_closed_once_the_engine_is_loaded() -> None:
    engine = load(tiny_bert.contents(), threads=1)
    assert engine.embed([[2, 3]]).shape == (1, 16)


def test_half_precision_weights_are_converted_exactly() -> None:
    tensors = tiny_bert.tensors()
    for name, array in tensors.items():
        if array.dtype == np.float32:
            tensors[name] = array.astype(np.float16)
    brain = {
        name: (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) if array.dtype == np.float16 else array
        for name, array in tensors.items()
    }
    for stored in (tensors, brain):
        files = tiny_bert.contents() | {"model.safetensors": tiny_bert.safetensors(stored)}
        wide = {
            name: (array.astype(np.uint32) << 16).view(np.float32)
            if array.dtype == np.uint16
            else array.astype(np.float32)
            for name, array in stored.items()
        }
        widened = tiny_bert.contents() | {"model.safetensors": tiny_bert.safetensors(wide)}
        rows = load(files).tokenize(SENTENCES)
        assert np.array_equal(load(files).embed(rows), load(widened).embed(rows))


@pytest.mark.parametrize("align", [1, 2, 3, 5, 8])
def test_weights_at_any_offset_give_the_same(tiny: EncoderEngine, align: int) -> None:
    data = tiny_bert.safetensors(tiny_bert.tensors(), align=align, metadata={"pad": "x" * align})
    engine = load(tiny_bert.contents() | {"model.safetensors": data})
    rows = tiny.tokenize(SENTENCES)
    assert np.array_equal(engine.embed(rows), tiny.embed(rows))


def test_a_checkpoint_may_be_split_and_its_names_prefixed(tiny: EncoderEngine) -> None:
    tensors = {f"bert.{name}": array for name, array in tiny_bert.tensors().items()}
    names = sorted(tensors)
    files = tiny_bert.contents()
    del files["model.safetensors"]
    for part in range(2):
        files[f"model-{part}.safetensors"] = tiny_bert.safetensors({name: tensors[name] for name in names[part::2]})
    rows = tiny.tokenize(SENTENCES)
    assert np.array_equal(load(files).embed(rows), tiny.embed(rows))


def without(name: str) -> bytes:
    return tiny_bert.safetensors({key: value for key, value in tiny_bert.tensors().items() if key != name})


def changed(name: str, array: np.ndarray) -> bytes:
    return tiny_bert.safetensors(tiny_bert.tensors() | {name: array})


QUERY = "encoder.layer.1.attention.self.query.weight"
BROKEN_WEIGHTS = {
    "missing tensor": (without(QUERY), "lacks tensor"),
    "missing bias": (without("encoder.layer.0.output.dense.bias"), "lacks tensor"),
    "no norm": (without("embeddings.LayerNorm.bias"), "lacks tensor"),
    "wrong shape": (changed(QUERY, np.zeros((16, 15), np.float32)), "shape"),
    "transposed": (changed("encoder.layer.0.output.dense.weight", np.zeros((32, 16), np.float32)), "shape"),
    "flattened": (changed(QUERY, np.zeros(256, np.float32)), "shape"),
    "integers": (changed(QUERY, np.zeros((16, 16), np.int64)), "dtype I64"),
    "doubles": (changed(QUERY, np.zeros((16, 16), np.float64)), "dtype F64"),
    "a layer too many": (changed("encoder.layer.2.output.dense.bias", np.zeros(16, np.float32)), "layers"),
    "a layer far out": (changed("encoder.layer.999999999.x", np.zeros(1, np.float32)), "layers"),
    "truncated": (tiny_bert.contents()["model.safetensors"][:-1], "beyond the file"),
    "no header": (b"", "less than 8 bytes"),
}


@pytest.mark.parametrize("fault", BROKEN_WEIGHTS)
def test_broken_weights_are_refused(fault: str) -> None:
    data, says = BROKEN_WEIGHTS[fault]
    with pytest.raises(MalformedError, match=says):
        load(tiny_bert.contents() | {"model.safetensors": data})


def test_a_tensor_in_two_files_is_refused() -> None:
    files = tiny_bert.contents()
    with pytest.raises(MalformedError, match="two tensors are called"):
        load(files | {"again.safetensors": files["model.safetensors"]})


def test_a_name_with_and_without_prefix_is_refused() -> None:
    tensors = tiny_bert.tensors()
    tensors[f"bert.{QUERY}"] = tensors[QUERY]
    with pytest.raises(MalformedError, match="two tensors are called"):
        load(tiny_bert.contents() | {"model.safetensors": tiny_bert.safetensors(tensors)})


@pytest.mark.parametrize("path", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_missing_file_is_named(path: str) -> None:
    files = tiny_bert.contents()
    del files[path]
    with pytest.raises(MalformedError, match=path):
        load(files)


def test_a_model_without_weights_is_refused() -> None:
    files = tiny_bert.contents()
    del files["model.safetensors"]
    with pytest.raises(MalformedError, match="0 layers"):
        load(files)


def test_a_length_whose_attention_takes_too_much_memory_is_refused() -> None:
    shape = tiny_bert.Shape(positions=16_384, max_tokens=16_384)
    with pytest.raises(MalformedError, match="4096 MiB") as caught:
        load(tiny_bert.contents(shape))
    assert caught.value.code == UNSUPPORTED


def test_an_adapter_is_unsupported_not_ignored() -> None:
    files = tiny_bert.contents()
    adapter = tiny_bert.safetensors({"lora_A.weight": np.zeros((2, 16), np.float32)})
    with pytest.raises(MalformedError, match="adapters") as caught:
        load(files | {"adapter/lora.safetensors": adapter})
    assert caught.value.code == UNSUPPORTED


def test_a_default_prompt_is_unsupported_not_ignored() -> None:
    document = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    with pytest.raises(MalformedError, match="default prompt") as caught:
        load(tiny_bert.contents() | {"config_sentence_transformers.json": json.dumps(document).encode()})
    assert caught.value.code == UNSUPPORTED


def test_another_architecture_is_unsupported_not_ignored() -> None:
    document = tiny_bert.config() | {"model_type": "roberta"}
    with pytest.raises(MalformedError, match="roberta") as caught:
        load(tiny_bert.contents() | {"config.json": json.dumps(document).encode()})
    assert caught.value.code == UNSUPPORTED


@pytest.mark.parametrize("lengths", [[], [1], [256] * 9, list(range(1, 257)), [5, 200, 5, 200, 6], [512] * 3])
def test_runs_cover_every_input_once_and_stay_bounded(lengths: list[int]) -> None:
    runs = list(_runs(lengths))
    assert sorted(index for run in runs for index in run) == list(range(len(lengths)))
    for run in runs:
        longest = max(lengths[index] for index in run)
        assert len(run) == 1 or len(run) * longest <= MAX_RUN_TOKENS
        assert all((longest - lengths[index]) * 8 <= longest for index in run)
