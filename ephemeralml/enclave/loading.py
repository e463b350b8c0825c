"""From packages that the host names to verified files: boot steps manifest and load.

The host chooses which packages it offers. Whether one is served is decided by
the measured rules alone: its publisher's key, its id, its version.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ephemeralml.attestation.verdict import printable
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.enclave.config import ModelRules
from ephemeralml.enclave.engines.base import EmbeddingEngine
from ephemeralml.enclave.packages import PackageFiles
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.model.container import load_files
from ephemeralml.model.manifest import Format, Suite, Task
from ephemeralml.model.memory_file import LoadedFile
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.progress import Progress

MAX_PACKAGES = 64

EngineFactory = Callable[[VerifiedManifest, Mapping[str, LoadedFile]], EmbeddingEngine]
"""Makes the engine that a verified model asks for."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A package whose manifest the measured rules accept."""

    package: PackageFiles
    verified: VerifiedManifest

    @property
    def encrypted(self) -> bool:
        """Whether a key is needed to open it."""
        return self.verified.manifest.suite is not Suite.NONE

    @property
    def name(self) -> str:
        """``id@version``, printable."""
        return printable(f"{self.verified.manifest.model_id}@{self.verified.manifest.version}")


def verify_offer(package: PackageFiles, rules: ModelRules) -> Offer:
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


def load(offer: Offer, dek: SecretBytes | None, progress: Progress) -> Mapping[str, LoadedFile]:
    """Bring a package's files into sealed memory; errors as `load_files`."""
    return load_files(offer.verified, offer.package, dek=dek, progress=progress)


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
