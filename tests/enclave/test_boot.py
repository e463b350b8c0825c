"""The boot sequence: every step can fail, and then nothing is left (serving section 1)."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ephemeralml.enclave.attesters.base import Attester
from ephemeralml.enclave.boot import boot
from ephemeralml.enclave.boot_report import Step, StepReport, StepStatus
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from tests.fakes.booted_runtime import Files, booted, config_source, inputs, software_attester, write_files
from tests.fakes.embedding_engine import HashEngine
from tests.fakes.packages import STRANGER, signed_package
from tests.fakes.tiny_bert import Shape


def failing(files: Files, **changes: Any) -> tuple[EphemeralError, list[StepReport]]:
    """Boot, expect a failure, and return it with the steps that were reported."""
    seen: list[StepReport] = []
    with pytest.raises(EphemeralError) as caught:
        boot(inputs(files, observer=seen.append, **changes))
    assert seen[-1].status is StepStatus.FAILED
    assert all(step.status is not StepStatus.FAILED for step in seen[:-1])
    assert caught.value.hint
    assert f"boot step {seen[-1].step.value!r}" in caught.value.message
    return caught.value, seen


def test_every_step_is_named_and_timed(tmp_path: Path) -> None:
    seen: list[StepReport] = []
    with booted(write_files(tmp_path), observer=seen.append) as runtime:
        assert [step.step for step in seen] == [step for step in Step if step is not Step.READY]
        assert all(step.milliseconds >= 0 and step.line().startswith("boot ") for step in seen)
        document = runtime.describe(("tcp://127.0.0.1:1",))
    assert json.loads(json.dumps(document))["schema"] == "ephemeralml.boot/1"
    assert document["models"][0]["id"] == "tiny-bert"
    assert document["listen"] == "tcp://127.0.0.1:1"
    assert document["security_mode"] == "evaluation"
    assert set(document["measurements"]) == {"pcr0", "pcr1", "pcr2", "pcr3", "pcr4"}
    assert [step["step"] for step in document["steps"]][4:6] == ["key release", "load"]


def test_closing_wipes_the_key_and_stops_the_engines(tmp_path: Path) -> None:
    engine = HashEngine()
    with booted(write_files(tmp_path), make_engine=lambda *_: engine) as runtime:
        assert runtime.key.signing is not None
    assert engine.closed
    with pytest.raises(RuntimeError, match="wiped"):
        _ = runtime.key.signing
    runtime.close()


def test_a_software_tee_is_always_in_evaluation(tmp_path: Path) -> None:
    with booted(write_files(tmp_path, config_source(security_mode="production"))) as runtime:
        assert runtime.identity.security_mode == "evaluation"
        assert runtime.issuer.security_mode == "evaluation"


class Hardware:
    """A software attester that says it is not one, as a test's stand-in for a device."""

    def __init__(self, inner: Attester) -> None:
        self.format, self.software = inner.format, False
        self.attest, self.attest_release, self.close = inner.attest, inner.attest_release, inner.close


def hardware(config: RuntimeConfig, **options: Any) -> Any:
    return Hardware(software_attester(config, **options))


def test_hardware_takes_the_configured_mode(tmp_path: Path) -> None:
    files = write_files(tmp_path, config_source(security_mode="production"))
    with booted(files, open_attester=hardware) as runtime:
        assert runtime.identity.security_mode == "production"


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_debug_enclave_is_in_evaluation(tmp_path: Path, zero: int) -> None:
    pcrs = {index: bytes([index + 1]) * 48 for index in range(5) if index != zero}
    files = write_files(tmp_path, config_source(security_mode="production"))
    with booted(files, open_attester=lambda config: hardware(config, pcrs=pcrs)) as runtime:
        assert runtime.probe.debug
        assert runtime.identity.security_mode == "evaluation"


def test_zero_optional_registers_are_left_out(tmp_path: Path) -> None:
    pcrs = {index: bytes([index + 1]) * 48 for index in (0, 1, 2, 8)}
    with booted(write_files(tmp_path), open_attester=lambda config: software_attester(config, pcrs=pcrs)) as runtime:
        assert set(runtime.probe.registers) == {"pcr0", "pcr1", "pcr2", "pcr8"}


def test_several_models_and_the_highest_version(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    more = [signed_package(tmp_path, version=version, seed=seed) for seed, version in enumerate(("1.10.0", "1.9.0"))]
    other = signed_package(tmp_path, model_id="tiny-other")
    with booted(dataclasses.replace(files, packages=(*files.packages, *more, other))) as runtime:
        registry = runtime.registry
        best = registry.resolve("tiny-bert")
        assert best is not None
        assert best.version == "1.10.0"
        assert registry.resolve("tiny-bert@1.9.0") is not None
        assert registry.resolve("tiny-bert@2.0.0") is None
        assert registry.resolve("tiny-other") is not None
        assert len(runtime.identity.models) == 4


# config


@pytest.mark.parametrize(("source", "kind"), [(b"x = 1", MalformedError), (config_source() + b"x = 1", MalformedError)])
def test_a_bad_configuration(tmp_path: Path, source: bytes, kind: type[EphemeralError]) -> None:
    error, seen = failing(write_files(tmp_path, source))
    assert type(error) is kind
    assert [step.step for step in seen] == [Step.CONFIG]


def test_no_configuration(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    files.config.unlink()
    error, _ = failing(files)
    assert isinstance(error, UnavailableError)


# attester


def test_no_attester(tmp_path: Path) -> None:
    def absent(config: RuntimeConfig) -> Attester:
        raise UnavailableError("cannot open /dev/nsm: no such file", hint="run inside an enclave")

    error, seen = failing(write_files(tmp_path), open_attester=absent)
    assert isinstance(error, UnavailableError)
    assert seen[-1].step is Step.ATTESTER
    assert error.hint == "run inside an enclave"


# manifest


@pytest.mark.parametrize(
    ("source", "package", "code"),
    [
        (config_source(), {"key": STRANGER}, "SIGNER_UNKNOWN"),
        (config_source(), {"model_id": "other"}, "MODEL_NOT_ALLOWED"),
        (config_source(allow_plaintext=False), {}, "PLAINTEXT_NOT_ALLOWED"),
        (config_source().replace(b'# min_version = "1.0.0"', b'min_version = "1.0.1"'), {}, "VERSION_ROLLBACK"),
    ],
)
def test_packages_the_measured_rules_refuse(tmp_path: Path, source: bytes, package: Any, code: str) -> None:
    error, seen = failing(write_files(tmp_path, source, **package))
    assert isinstance(error, RejectedError)
    assert error.code == code
    assert seen[-1].step is Step.MANIFEST


def test_an_extra_file_in_the_package(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    (files.packages[0] / "run-me.py").write_text("import os")
    error, seen = failing(files)
    assert isinstance(error, MalformedError)
    assert seen[-1].step is Step.MANIFEST


def test_no_package(tmp_path: Path) -> None:
    error, _ = failing(dataclasses.replace(write_files(tmp_path), packages=()))
    assert "--package" in (error.hint or "")
    files = write_files(tmp_path / "more") if (tmp_path / "more").mkdir() is None else None
    assert files is not None
    shutil.rmtree(files.packages[0])
    missing, seen = failing(files)
    assert isinstance(missing, UnavailableError)
    assert seen[-1].step is Step.MANIFEST


# load


def test_a_flipped_byte_of_the_weights(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    largest = max((files.packages[0] / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    error, seen = failing(files)
    assert isinstance(error, RejectedError)
    assert error.code == "CHUNK_ROOT_MISMATCH"
    assert seen[-1].step is Step.LOAD


# engine


def test_an_engine_that_refuses(tmp_path: Path) -> None:
    def unsupported(*_: Any) -> Any:
        raise MalformedError("no engine serves this", code="MODEL_UNSUPPORTED")

    error, seen = failing(write_files(tmp_path), make_engine=unsupported)
    assert isinstance(error, MalformedError)
    assert seen[-1].step is Step.ENGINE


@pytest.mark.parametrize(
    ("aliases", "kind"),
    [("a = 'nobody'", MalformedError), ("tiny-bert = 'tiny-bert@1.0.0'", RejectedError)],
)
def test_aliases_that_cannot_be(tmp_path: Path, aliases: str, kind: type[EphemeralError]) -> None:
    error, seen = failing(write_files(tmp_path, config_source() + f"[models.aliases]\n{aliases}\n".encode()))
    assert type(error) is kind
    assert seen[-1].step is Step.ENGINE


def test_the_same_package_twice(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    error, _ = failing(dataclasses.replace(files, packages=files.packages * 2))
    assert isinstance(error, RejectedError)
    assert error.code == "MODEL_DUPLICATE"


def test_a_failure_takes_everything_back(tmp_path: Path) -> None:
    engine = HashEngine()
    files = write_files(tmp_path)
    other = signed_package(tmp_path, model_id="tiny-other")
    made: list[Any] = []

    def second_fails(*_: Any) -> Any:
        if made:
            raise MalformedError("no")
        made.append(engine)
        return engine

    failing(dataclasses.replace(files, packages=(*files.packages, other)), make_engine=second_fails)
    assert engine.closed


# canary


class Wrong(HashEngine):
    """An engine that is wrong in one way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.calls = 0

    def embed(self, batch: Any) -> Any:
        rows = super().embed(batch)
        self.calls += 1
        match self.how:
            case "nan":
                rows[0, 0] = np.nan
            case "infinite":
                rows[0, 0] = np.inf
            case "zero":
                rows[:] = 0
            case "norm":
                rows *= 1.01
            case "unsteady":
                rows[0, 0] += self.calls * 1e-7
            case "batch":
                rows[0, 0] += 1e-4 * (len(batch) - 1)
            case "shape":
                rows = rows[:, :-1]
        return rows


@pytest.mark.parametrize("how", ["nan", "infinite", "zero", "norm", "unsteady", "batch", "shape"])
def test_a_wrong_answer_stops_the_boot(tmp_path: Path, how: str) -> None:
    error, seen = failing(write_files(tmp_path), make_engine=lambda *_: Wrong(how))
    assert isinstance(error, RejectedError)
    assert error.code == "CANARY_WRONG"
    assert seen[-1].step is Step.CANARY


def test_a_model_that_does_not_normalise_may_have_any_length(tmp_path: Path) -> None:
    engine = Wrong("norm")
    engine.normalized = False
    with booted(write_files(tmp_path), make_engine=lambda *_: engine):
        pass
    (tmp_path / "real").mkdir()
    real = write_files(tmp_path / "real", shape=Shape(normalize=False))
    with booted(real) as runtime:
        assert not runtime.registry.models[0].engine.normalized


def test_a_slow_answer_stops_the_boot(tmp_path: Path) -> None:
    import threading

    engine = HashEngine()
    engine.gate = threading.Event()
    files = write_files(tmp_path, config_source(limits={"canary_seconds": 0.1}))
    error, seen = failing(files, make_engine=lambda *_: engine)
    assert isinstance(error, UnavailableError)
    assert seen[-1].step is Step.CANARY
    engine.gate.set()


def test_a_bug_is_reported_by_its_class_alone(tmp_path: Path) -> None:
    class Broken(HashEngine):
        def embed(self, batch: Any) -> Any:
            raise ValueError("weights: 0123")

    seen: list[StepReport] = []
    with pytest.raises(ValueError, match="weights"):
        boot(inputs(write_files(tmp_path), make_engine=lambda *_: Broken(), observer=seen.append))
    assert seen[-1].detail == "ValueError"


def test_a_receipt_that_its_own_verifier_refuses_stops_the_boot(tmp_path: Path) -> None:
    error, seen = failing(write_files(tmp_path), unix_time=lambda: 0)
    assert isinstance(error, MalformedError)
    assert seen[-1].step is Step.CANARY
