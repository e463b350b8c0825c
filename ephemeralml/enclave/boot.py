"""The boot sequence (serving section 1): all of it, or nothing.

Each step is timed and named. A failure names its step and the fix, wipes the
keys and leaves nothing behind; whoever called decides the exit code from the
error's kind.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ephemeralml import __version__, clock
from ephemeralml.attestation.evidence import ExpectedBinding
from ephemeralml.attestation.verdict import printable
from ephemeralml.channel.hello import Identity, Limits, ModelEntry
from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.enclave import canary, loading, release
from ephemeralml.enclave.api.introspection import RuntimeFacts
from ephemeralml.enclave.api.router import Router
from ephemeralml.enclave.attesters.base import Attester, SessionEvidence
from ephemeralml.enclave.boot_report import BootReport, Step, StepReport
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.enclave.hardening import Hardening, harden
from ephemeralml.enclave.host_services import HostServices
from ephemeralml.enclave.keys import ReceiptKey
from ephemeralml.enclave.loading import EngineFactory, Offer
from ephemeralml.enclave.models import SCHEME, ModelRegistry, ServedModel
from ephemeralml.enclave.packages import FolderPackage, PackageFiles, ServedPackage
from ephemeralml.enclave.pending_recipient import PendingRecipient
from ephemeralml.enclave.receipts import ReceiptIssuer
from ephemeralml.enclave.release import KeyRelease, ReleaseDocuments
from ephemeralml.enclave.runtime import Lifecycle, Runtime
from ephemeralml.enclave.worker import EngineWorker
from ephemeralml.errors import MalformedError
from ephemeralml.model.memory_file import LoadedFile
from ephemeralml.progress import Progress, Silent
from ephemeralml.receipt.claims import EVALUATION


@dataclass(frozen=True, slots=True)
class BootInputs:
    """What a boot is given. Of these only the configuration is measured."""

    config: Path
    packages: Sequence[Path]
    """Where the host put packages; untrusted. Empty for those of the host's services."""
    open_attester: Callable[[RuntimeConfig], Attester]
    make_engine: EngineFactory | None = None
    """None for the engines of this installation."""
    harden: Callable[[], Hardening] = harden
    unix_time: Callable[[], int] = clock.unix_now
    progress: Progress = field(default_factory=Silent)
    observer: Callable[[StepReport], None] = lambda _: None


def boot(inputs: BootInputs) -> Runtime:
    """Run every step but the last and return the runtime; listening makes it ready.

    Raises:
        EphemeralError: A step failed; the message names it, the hint its fix.
    """
    report = BootReport(inputs.observer)
    with ExitStack() as undo:
        return _Boot(inputs, report, undo).run()


class _Boot:
    """One boot in progress; *undo* holds what a failure must take back."""

    def __init__(self, inputs: BootInputs, report: BootReport, undo: ExitStack) -> None:
        self.inputs = inputs
        self.report = report
        self.undo = undo
        self.sources = ExitStack()
        """What is open until the last package is loaded."""
        undo.callback(self.sources.close)

    def run(self) -> Runtime:
        hardening, config = self._config()
        attester, probe = self._attester(config)
        key, recipient = self._keys(config)
        services = self._services(config)
        offers = self._manifests(config, services)
        deks = self._key_release(config, offers, ReleaseDocuments(attester, key.public), recipient, services)
        files = self._load(offers, deks)
        registry = self._engines(config, offers, files)
        mode = EVALUATION if attester.software or probe.debug else config.security_mode
        identity = _identity(config, registry, mode)
        issuer = ReceiptIssuer(key, config.issuer, config.policy_version, mode, self.inputs.unix_time)
        self._canary(config, registry, issuer, probe, identity)
        lifecycle = Lifecycle()
        limits = _channel_limits(config)
        return Runtime(
            config=config,
            attester=attester,
            key=key,
            registry=registry,
            identity=identity,
            limits=limits,
            issuer=issuer,
            router=_router(config, registry, identity, key, limits, lifecycle, self.inputs.unix_time()),
            lifecycle=lifecycle,
            probe=probe,
            hardening=hardening,
            report=self.report,
            undo=self.undo.pop_all(),
        )

    def _config(self) -> tuple[Hardening, RuntimeConfig]:
        with self.report.step(Step.CONFIG) as note:
            hardening = self.inputs.harden()
            config = RuntimeConfig.load(self.inputs.config)
            note.detail = f"sha256 {config.digest.hex()}"
            return hardening, config

    def _attester(self, config: RuntimeConfig) -> tuple[Attester, SessionEvidence]:
        with self.report.step(Step.ATTESTER) as note:
            attester = self.inputs.open_attester(config)
            self.undo.callback(attester.close)
            # Values of no session: the document is for the boot's own eyes.
            probe = attester.attest(ExpectedBinding(os.urandom(32), os.urandom(32), os.urandom(32)))
            kind = "software TEE: not protected from this machine" if attester.software else "hardware"
            note.detail = f"{attester.format.value}, {kind}{', debug' if probe.debug else ''}"
            return attester, probe

    def _keys(self, config: RuntimeConfig) -> tuple[ReceiptKey, PendingRecipient | None]:
        with self.report.step(Step.KEYS) as note:
            key = ReceiptKey.generate()
            self.undo.callback(key.wipe)
            recipient = PendingRecipient() if config.keys is not None else None
            if recipient is not None:
                self.undo.callback(recipient.drop)
            note.detail = f"receipts ed25519:{key.public.hex()}{', recipient rsa-2048' if recipient else ''}"
            return key, recipient

    def _services(self, config: RuntimeConfig) -> HostServices | None:
        if config.services is None:
            return None
        services = HostServices(config.services)
        self.sources.callback(services.close)
        return services

    def _manifests(self, config: RuntimeConfig, services: HostServices | None) -> list[Offer]:
        with self.report.step(Step.MANIFEST) as note:
            offers = []
            for package in self._packages(config, services):
                self.sources.callback(package.close)
                offers.append(loading.verify_offer(package, config.models))
            note.detail = printable(", ".join(offer.name for offer in offers), 200)
            return offers

    def _packages(self, config: RuntimeConfig, services: HostServices | None) -> Iterator[PackageFiles]:
        folders = self.inputs.packages
        if not folders and services is not None and config.services is not None:
            yield from (ServedPackage(services.package(name)) for name in config.services.packages)
            return
        if not 1 <= len(folders) <= loading.MAX_PACKAGES:
            raise MalformedError(
                f"{len(folders)} packages, 1 to {loading.MAX_PACKAGES} are possible",
                hint="name a package with --package, or the host's services in the measured configuration",
            )
        yield from map(FolderPackage.open, folders)

    def _key_release(
        self,
        config: RuntimeConfig,
        offers: Sequence[Offer],
        documents: ReleaseDocuments,
        recipient: PendingRecipient | None,
        services: HostServices | None,
    ) -> list[SecretBytes | None]:
        with self.report.step(Step.KEY_RELEASE) as note:
            encrypted = [offer for offer in offers if offer.encrypted]
            if not encrypted:
                if recipient is not None:
                    recipient.drop()
                note.skip("no package is encrypted")
                return [None] * len(offers)
            rules = release.require_rules(config.keys, encrypted)
            made = recipient.key() if recipient is not None else None
            unwrap = release.over_services(services, made, self.report.releases.append)
            keys = KeyRelease(rules, unwrap, documents)
            deks: list[SecretBytes | None] = []
            for offer in offers:
                deks.append(keys.data_key(offer) if offer.encrypted else None)
                if (dek := deks[-1]) is not None:
                    self.undo.callback(dek.wipe)
            if recipient is not None:
                recipient.drop()
            note.detail = printable(", ".join(offer.name for offer in encrypted), 200)
            return deks

    def _load(self, offers: Sequence[Offer], deks: Sequence[SecretBytes | None]) -> list[Mapping[str, LoadedFile]]:
        with self.report.step(Step.LOAD) as note:
            loaded = []
            for offer, dek in zip(offers, deks, strict=True):
                files = loading.load(offer, dek, self.inputs.progress)
                for file in files.values():
                    self.undo.callback(file.close)
                if dek is not None:
                    dek.wipe()
                loaded.append(files)
            self.sources.close()
            size = sum(file.size for files in loaded for file in files.values())
            note.detail = f"{size / (1 << 20):.1f} MiB in sealed memory"
            return loaded

    def _engines(
        self, config: RuntimeConfig, offers: Sequence[Offer], loaded: Sequence[Mapping[str, LoadedFile]]
    ) -> ModelRegistry:
        make = self.inputs.make_engine or loading.engine_factory(config.engine.threads)
        with self.report.step(Step.ENGINE) as note:
            models = []
            for offer, files in zip(offers, loaded, strict=True):
                engine = make(offer.verified, files)
                worker = EngineWorker(offer.verified.manifest.model_id, limit=config.limits.queue_requests)
                model = ServedModel(offer.verified, engine, worker)
                self.undo.callback(model.close)
                models.append(model)
            registry = ModelRegistry(models, config.models.aliases)
            note.detail = ", ".join(f"{model.engine.dim} dimensions" for model in models)
            return registry

    def _canary(
        self,
        config: RuntimeConfig,
        registry: ModelRegistry,
        issuer: ReceiptIssuer,
        probe: SessionEvidence,
        identity: Identity,
    ) -> None:
        with self.report.step(Step.CANARY) as note:
            for model in registry.models:
                canary.check_engine(model.engine, seconds=config.limits.canary_seconds)
                canary.check_receipt(issuer, model, probe, identity)
            note.detail = "known answers and their receipts hold"


def _identity(config: RuntimeConfig, registry: ModelRegistry, mode: str) -> Identity:
    entries = (ModelEntry(model.model_id, model.version, model.model_hash, SCHEME) for model in registry.models)
    return Identity(__version__, mode, tuple(entries), config.digest)


def _channel_limits(config: RuntimeConfig) -> Limits:
    limits = config.limits
    return Limits(
        max_record=limits.max_record_bytes,
        max_inflight=limits.max_inflight,
        idle_seconds=limits.idle_seconds,
        max_body=limits.max_body_bytes,
    )


def _router(
    config: RuntimeConfig,
    registry: ModelRegistry,
    identity: Identity,
    key: ReceiptKey,
    limits: Limits,
    lifecycle: Lifecycle,
    started_at: int,
) -> Router:
    facts = RuntimeFacts(
        version=identity.runtime_version,
        security_mode=identity.security_mode,
        config_digest=config.digest,
        receipt_key=key.public,
        started_at=started_at,
        limits={
            "max_record": limits.max_record,
            "max_inflight": limits.max_inflight,
            "idle_seconds": limits.idle_seconds,
            "max_body": limits.max_body,
            "max_inputs": config.limits.max_inputs,
        },
        draining=lambda: lifecycle.draining,
    )
    return Router(
        registry,
        facts,
        clients=config.clients,
        max_inputs=config.limits.max_inputs,
        max_text_bytes=config.limits.max_text_bytes,
    )
