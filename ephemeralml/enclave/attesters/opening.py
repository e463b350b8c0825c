"""From the measured configuration to the attester it names."""

from pathlib import Path

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.attestation.local.nsm import SoftwareNsm
from ephemeralml.enclave.attesters.base import Attester
from ephemeralml.enclave.attesters.nitro import NitroAttester
from ephemeralml.enclave.attesters.nsm import NsmClient, NsmDevice, NsmDirect, NsmSocket
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.errors import MalformedError


def open_attester(config: RuntimeConfig, *, authority: Path | None = None, nsm_socket: str | None = None) -> Attester:
    """Open the attester that *config* names.

    The two arguments come from the host and serve the software TEE alone; for
    a hardware attester they are an error, so that nobody believes they count.

    Raises:
        UnavailableError: The device or the software authority is not there.
        MalformedError: Arguments and configuration do not go together.
    """
    if config.attester == "nsm":
        if authority is not None or nsm_socket is not None:
            raise MalformedError("a software authority is of no use to the attester 'nsm'", code="CONFIG_INVALID")
        return NitroAttester(NsmClient(NsmDevice()), software=False)
    if nsm_socket is not None:
        return NitroAttester(NsmClient(NsmSocket(nsm_socket)), software=True)
    if authority is None:
        raise MalformedError(
            "the attester 'local' needs a software authority",
            code="CONFIG_INVALID",
            hint="name its folder with --authority, or its module's socket with --nsm-socket",
        )
    root = Authority.load(authority)
    module = SoftwareNsm(root, measure(config.source, root.id))
    return NitroAttester(NsmClient(NsmDirect(module.handle)), software=True)
