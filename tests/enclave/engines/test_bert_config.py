import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.enclave.engines.bert_config import (
    UNSUPPORTED,
    BertConfig,
    Pooling,
    SentenceConfig,
    parse_bert,
    parse_sentence,
)
from ephemeralml.errors import MalformedError
from tests.fakes import tiny_bert


def reader(**changed: object) -> Callable[[str], bytes | None]:
    names = {
        "config": "config.json",
        "modules": "modules.json",
        "pooling": "1_Pooling/config.json",
        "limits": "sentence_bert_config.json",
    }
    files: dict[str, bytes | None] = dict(tiny_bert.contents())
    for key, value in changed.items():
        files[names[key]] = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return files.get


def bert(**fields: object) -> BertConfig:
    document = {name: value for name, value in (tiny_bert.config() | fields).items() if value is not ...}
    return parse_bert(reader(config=document))


def sentence(**changed: object) -> SentenceConfig:
    return parse_sentence(reader(**changed), bert())


def modules(*kinds: str, first: str = "", prefix: str = "sentence_transformers.models.") -> list[dict[str, Any]]:
    paths = [first, "1_Pooling", "2_Normalize", "3_More"]
    return [{"idx": index, "path": paths[index], "type": prefix + kind} for index, kind in enumerate(kinds)]


def test_a_config_is_read() -> None:
    assert bert() == BertConfig(16, 2, 4, 32, len(tiny_bert.VOCABULARY), 64, 2, 1e-12)
    assert sentence() == SentenceConfig(Pooling.MEAN, normalize=True, max_tokens=48, lowercase=False)


@pytest.mark.parametrize(
    "name",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 1 << 40, 1 << 63, 1.0, True, "16", None, [16], ...])
def test_sizes_out_of_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedError, match=name):
        bert(**{name: value})


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(MalformedError, match="multiple"):
        bert(num_attention_heads=3)


@pytest.mark.parametrize("value", [0, 0.0, -1e-12, 0.1, 1, "1e-12", None, ...])
def test_epsilon_is_a_small_positive_number(value: object) -> None:
    with pytest.raises(MalformedError, match="layer_norm_eps"):
        bert(layer_norm_eps=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "distilbert"),
        ("model_type", ...),
        ("hidden_act", "gelu_new"),
        ("hidden_act", "relu"),
        ("hidden_act", ...),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("is_decoder", 0),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_what_changes_the_mathematics_is_refused(name: str, value: object) -> None:
    with pytest.raises(MalformedError, match=name) as caught:
        bert(**{name: value})
    assert caught.value.code == UNSUPPORTED


@pytest.mark.parametrize(
    ("name", "value"),
    [("position_embedding_type", ...), ("pruned_heads", {}), ("is_decoder", False), ("hidden_dropout_prob", 0.1)],
)
def test_what_changes_nothing_is_accepted(name: str, value: object) -> None:
    assert bert(**{name: value}) == bert()


@pytest.mark.parametrize("prefix", ["", "sentence_transformers.models.", "sentence_transformers.base.modules."])
def test_modules_are_known_by_their_last_name(prefix: str) -> None:
    assert sentence(modules=modules("Transformer", "Pooling", "Normalize", prefix=prefix)).normalize
    assert not sentence(modules=modules("Transformer", "Pooling", prefix=prefix)).normalize


@pytest.mark.parametrize(
    "value",
    [
        modules("Transformer"),
        modules("Transformer", "Normalize"),
        modules("Pooling", "Transformer"),
        modules("Transformer", "Pooling", "Dense"),
        modules("Transformer", "Pooling", "Normalize", "Dense"),
        modules("Transformer", "Pooling", first="0_Transformer"),
        [],
        None,
    ],
)
def test_other_pipelines_are_unsupported(value: object) -> None:
    with pytest.raises(MalformedError) as caught:
        sentence(modules=value)
    assert caught.value.code == UNSUPPORTED


@pytest.mark.parametrize("value", [{}, 1, [1], [{"type": "Transformer"}], [{"path": "", "type": 1}], b"[", b""])
def test_modules_of_another_shape_are_malformed(value: object) -> None:
    with pytest.raises(MalformedError):
        sentence(modules=value)


@pytest.mark.parametrize(
    ("document", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, Pooling.MEAN),
        ({"pooling_mode_cls_token": True}, Pooling.CLS),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, Pooling.MEAN_SQRT_LENGTH),
        ({"pooling_mode": "mean", "include_prompt": True}, Pooling.MEAN),
        ({"pooling_mode": "cls"}, Pooling.CLS),
    ],
)
def test_pooling_is_read(document: object, pooling: Pooling) -> None:
    assert sentence(pooling=document).pooling is pooling


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
        {"pooling_mode_mean_tokens": 1},
        {"pooling_mode_mean_tokens": True, "pooling_mode_new": None},
        {"pooling_mode": "max"},
        {"pooling_mode": ["mean"]},
        {"pooling_mode": None},
    ],
)
def test_other_pooling_is_unsupported(document: object) -> None:
    with pytest.raises(MalformedError) as caught:
        sentence(pooling=document)
    assert caught.value.code == UNSUPPORTED


def test_pooling_of_another_width_is_refused() -> None:
    with pytest.raises(MalformedError, match="word_embedding_dimension"):
        sentence(pooling={"pooling_mode": "mean", "word_embedding_dimension": 17})


@pytest.mark.parametrize(
    ("limits", "longest"),
    [({"max_seq_length": 2}, 2), ({"max_seq_length": 9_999}, 64), ({"max_seq_length": None}, 64), ({}, 64), (None, 64)],
)
def test_the_longest_input_is_the_smaller_limit(limits: object, longest: int) -> None:
    assert sentence(limits=limits).max_tokens == longest


@pytest.mark.parametrize(
    "limits",
    [
        {"max_seq_length": 1},
        {"max_seq_length": -5},
        {"max_seq_length": "9"},
        {"max_seq_length": 1 << 40},
        {"do_lower_case": 1},
        [],
    ],
)
def test_odd_limits_are_refused(limits: object) -> None:
    with pytest.raises(MalformedError):
        sentence(limits=limits)


@pytest.mark.fuzz
@given(
    st.dictionaries(
        st.sampled_from([*tiny_bert.config(), "is_decoder", "x"]),
        st.none()
        | st.integers()
        | st.floats()
        | st.text()
        | st.booleans()
        | st.lists(st.integers())
        | st.dictionaries(st.text(), st.integers()),
    )
)
def test_only_our_errors_leave_the_parser(changes: dict[str, object]) -> None:
    with suppress(MalformedError):
        bert(**changes)


@pytest.mark.fuzz
@given(
    st.sampled_from(["config", "modules", "pooling", "limits"]),
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=10,
    ),
)
def test_only_our_errors_leave_any_file(which: str, content: object) -> None:
    with suppress(MalformedError):
        parse_bert(reader(**{which: content}))
        parse_sentence(reader(**{which: content}), bert())
