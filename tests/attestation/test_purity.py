"""No verifier opens a socket or a file, or reads a clock or the environment (architecture, rule 4)."""

import ast
import importlib
import os
import sys
import time
from pathlib import Path

import pytest

import ephemeralml
from ephemeralml import clock
from ephemeralml.attestation.evidence import AppraisalTime
from ephemeralml.attestation.roots import RootKind
from tests.fakes.nitro import Check, check, policy, workshop

_FORBIDDEN_EVENTS = ("socket.", "open", "subprocess.", "os.putenv", "sqlite3.", "urllib.")


class _Watch:
    """Notes what the interpreter was asked to open while it looks."""

    def __init__(self) -> None:
        self.looking = False
        self.seen: list[str] = []

    def __enter__(self) -> None:
        self.seen.clear()
        self.looking = True

    def __exit__(self, *_: object) -> None:
        self.looking = False

    def hook(self, event: str, _arguments: object) -> None:
        if self.looking and event.startswith(_FORBIDDEN_EVENTS):
            self.seen.append(event)


_watch = _Watch()
sys.addaudithook(_watch.hook)


def _forbidden(*_arguments: object, **_options: object) -> None:
    raise AssertionError("a verifier read a clock or the environment")


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but its arguments reach a verifier."""
    # Everything is imported and every cached value made before the doors close.
    cases()
    monkeypatch.setattr(clock, "now", _forbidden)
    monkeypatch.setattr(clock, "unix_now", _forbidden)
    for name in ("time", "time_ns", "monotonic", "localtime", "gmtime"):
        monkeypatch.setattr(time, name, _forbidden)
    monkeypatch.setattr(os, "getenv", _forbidden)
    monkeypatch.setattr(os, "urandom", _forbidden)


def cases() -> list[Check]:
    live = [check(kind=kind) for kind in RootKind]
    archives = [case.but(live=False, at=AppraisalTime.of_document()) for case in live]
    broken = [live[0].but(document=document) for document in (b"", live[0].document[:-1])]
    return [*live, *archives, *broken]


PREPARED = cases()


def test_verifiers_reach_nothing_outside_their_arguments(isolated: None) -> None:
    with _watch:
        for case in PREPARED:
            case.run()
    assert _watch.seen == []


VERIFYING = (
    "attestation.appraisal",
    "attestation.binding",
    "attestation.conclude",
    "attestation.evidence",
    "attestation.measurements",
    "attestation.model_rules",
    "attestation.nitro.appraise",
    "attestation.nitro.compat",
    "attestation.nitro.crl",
    "attestation.nitro.document",
    "attestation.nitro.policy",
    "attestation.nitro.verify",
    "attestation.recognise",
    "attestation.roots",
    "attestation.verdict",
    "attestation.verify",
    "crypto.cbor",
    "crypto.cose",
    "crypto.x509",
)
_READERS = {"now", "utcnow", "today", "unix_now", "getenv", "urlopen", "create_connection"}
_MODULES = {"socket", "time", "os", "ssl", "subprocess", "urllib", "http", "pathlib", "random", "secrets"}


@pytest.mark.parametrize("name", VERIFYING)
def test_no_verifying_module_names_a_clock_a_socket_or_the_environment(name: str) -> None:
    module = importlib.import_module(f"ephemeralml.{name}")
    tree = ast.parse(Path(str(module.__file__)).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & _MODULES
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in _MODULES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in _READERS or ast.unparse(node.func) == "AppraisalTime.now"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open"


def test_only_an_appraisal_makes_verified_evidence() -> None:
    package = Path(str(ephemeralml.__file__)).parent
    makers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "VerifiedEvidence(" in path.read_text()
    }
    assert makers == {"attestation/appraisal.py"}


def test_the_policy_is_read_with_the_time_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", _forbidden)
    assert policy().policy_id == "test"
    assert workshop().kind is RootKind.VENDOR
