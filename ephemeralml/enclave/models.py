"""The models that are loaded, and the names they answer to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ephemeralml.enclave.engines.base import EmbeddingEngine
from ephemeralml.enclave.worker import EngineWorker
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.model.manifest import Task
from ephemeralml.model.verify import VerifiedManifest

SCHEME = "sha256-manifest"
"""How every model hash of ours is made (air-v1 section 6)."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One verified model with its engine."""

    verified: VerifiedManifest
    engine: EmbeddingEngine = field(repr=False)
    worker: EngineWorker = field(repr=False)
    model_hash: bytes = field(init=False)
    """SHA-256 of the signed manifest's payload, made once."""
    version: str = field(init=False)
    """The version as receipts and identity state it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_hash", self.verified.model_hash)
        object.__setattr__(self, "version", str(self.verified.manifest.version))

    @property
    def model_id(self) -> str:
        """The model's id, without its version."""
        return self.verified.manifest.model_id

    @property
    def task(self) -> Task:
        """What the model is for."""
        return self.verified.manifest.task

    @property
    def full_name(self) -> str:
        """``id@version``."""
        return f"{self.model_id}@{self.version}"

    def close(self) -> None:
        """Stop the engine's thread and let go of the weights."""
        self.worker.close(timeout=10)
        self.engine.close()


class ModelRegistry:
    """Names to models: ``id@version``, ``id`` for its highest version, and the measured aliases.

    Raises:
        RejectedError: Two packages carry the same id and version, or an alias
            hides a model's own name.
        MalformedError: An alias names nothing that is loaded.
    """

    def __init__(self, models: Iterable[ServedModel], aliases: Mapping[str, str]) -> None:
        self.models = tuple(models)
        """Every model, in the order loaded."""
        self._by_name: dict[str, ServedModel] = {}
        self._by_hash = {model.model_hash.hex(): model for model in self.models}
        for model in self.models:
            if model.full_name in self._by_name:
                raise RejectedError(f"two packages carry {model.full_name}", code="MODEL_DUPLICATE")
            self._by_name[model.full_name] = model
        for model in self.models:
            best = self._by_name.get(model.model_id)
            if best is None or best.verified.manifest.version < model.verified.manifest.version:
                self._by_name[model.model_id] = model
        self.aliases: dict[str, ServedModel] = {}
        """Alias to model."""
        for alias, name in aliases.items():
            self.aliases[alias] = self._aliased(alias, name)

    def _aliased(self, alias: str, name: str) -> ServedModel:
        if alias in self._by_name:
            raise RejectedError(f"the alias {alias!a} hides a model of that name", code="ALIAS_CONFLICT")
        model = self._by_name.get(name)
        if model is None:
            raise MalformedError(f"the alias {alias!a} names {name!a}, which no package provides")
        return model

    def resolve(self, name: str) -> ServedModel | None:
        """Return the model that *name* means, or None."""
        return self._by_name.get(name) or self.aliases.get(name)

    def by_hash(self, digits: str) -> ServedModel | None:
        """Return the model whose hash is *digits* in lower-case hex, or None."""
        return self._by_hash.get(digits)

    def close(self) -> None:
        """Stop every engine."""
        for model in self.models:
            model.close()
