"""From packages that the host names to verified files: boot steps manifest and load.

The host chooses which packages it offers. Whether one is served is decided by
the measured rules alone: its publisher's key, its id, its version.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ephemeralml.attestation.verdict import printable
from ephemeralml.enclave.config import ModelRules
from ephemeralml.enclave.engines.base import EmbeddingEngine
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model.container import load_files
from ephemeralml.model.manifest import Format, Suite, Task
from ephemeralml.model.memory_file import LoadedFile
from ephemeralml.model.package import Package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.progress import Progress

MAX_PACKAGES = 64

EngineFactory = Callable[[VerifiedManifest, Mapping[str, LoadedFile]], EmbeddingEngine]
"""Makes the engine that a verified model asks for."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A package whose manifest the measured rules accept."""

    package: Package
    verified: VerifiedManifest


def verify_offer(package: Package, rules: ModelRules) -> Offer:
    """Check one package's manifest against the measured rules.

    1. Signed by a measured publisher key; not plaintext unless allowed.
    2. The id is one that the rules allow.
    3. The version is the rule's minimum or newer.
    4. The folder holds what the manifest says and nothing else.

    Raises:
        RejectedError: 1 to 3, with the code of `verify_manifest`, or MODEL_NOT_ALLOWED.
        MalformedError: It does not parse.
        UnavailableError: Something is missing.
    """
    # 1
    data = package.manifest_bytes()
    verified = verify_manifest(data, publisher_keys=rules.keys, allow_plaintext=rules.allow_plaintext)
    # 2
    rule = rules.rule_for(verified.manifest.model_id)
    if rule is None:
        raise RejectedError(
            f"the model {printable(verified.manifest.model_id)!r} is not among those the configuration allows",
            code="MODEL_NOT_ALLOWED",
            expected=[allowed.id for allowed in rules.allow],
            actual=verified.manifest.model_id,
        )
    # 3
    verified = verify_manifest(
        data, publisher_keys=rules.keys, min_version=rule.minimum, allow_plaintext=rules.allow_plaintext
    )
    # 4
    package.check_layout(verified.manifest)
    return Offer(package, verified)


def require_keys(offers: Sequence[Offer]) -> str:
    """Obtain what encrypted packages need; none can be served yet.

    Returns:
        What was done, for the boot report.

    Raises:
        UnavailableError: A package is encrypted.
    """
    for offer in offers:
        if offer.verified.manifest.suite is not Suite.NONE:
            raise UnavailableError(
                f"{printable(offer.verified.manifest.model_id)!r} is encrypted, and this runtime has no key release",
                hint="serve a package of suite none, with allow_plaintext in the measured configuration",
            )
    return "no package is encrypted"


def load(offer: Offer, progress: Progress) -> Mapping[str, LoadedFile]:
    """Bring a package's files into sealed memory; errors as `load_files`."""
    return load_files(offer.verified, offer.package, progress=progress)


def engine_factory(threads: int) -> EngineFactory:
    """Return the factory of the engines this runtime has."""

    def make(verified: VerifiedManifest, files: Mapping[str, LoadedFile]) -> EmbeddingEngine:
        manifest = verified.manifest
        if manifest.task is not Task.EMBEDDING or manifest.format is not Format.SAFETENSORS:
            raise MalformedError(
                f"no engine here serves {manifest.task.value} models in {manifest.format.value}",
                code="MODEL_UNSUPPORTED",
            )
        from ephemeralml.enclave.engines.encoder import EncoderEngine

        return EncoderEngine.load(files, threads=threads)

    return make
