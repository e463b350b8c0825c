"""The options about OpenSSF model signatures, and where their bundles lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from ephemeralml.model.create import Upstream
    from ephemeralml.model.oms import Trust

OmsKey = Annotated[
    Path | None,
    typer.Option("--oms-key", metavar="FILE", help="Upstream's public key (PEM, EC): its model signature must hold."),
]
OmsIdentity = Annotated[
    str | None, typer.Option("--oms-identity", metavar="ID", help="Who signed upstream, through Sigstore.")
]
OmsIssuer = Annotated[
    str | None, typer.Option("--oms-issuer", metavar="URL", help="Who vouches for --oms-identity (OpenID Connect).")
]
OmsSignature = Annotated[
    Path | None,
    typer.Option(
        "--oms-signature", metavar="FILE", help="Upstream's signature; else PATH.sig beside it, or PATH/model.sig."
    ),
]
OmsTrustConfig = Annotated[
    Path | None,
    typer.Option(
        "--oms-trust-config", metavar="FILE", help="Sigstore trust configuration, if not the public instance's."
    ),
]


def bundle_beside(model: Path) -> Path:
    """Return where a model's signature lies by default: outside, as ``NAME.sig``."""
    root = model.resolve()
    return root.with_name(f"{root.name}.sig") if model.name in ("", "..") else model.with_name(f"{model.name}.sig")


@dataclass(frozen=True, slots=True)
class Signer:
    """Whom the options trust to have signed upstream."""

    key: Path | None
    identity: str | None
    issuer: str | None
    trust_config: Path | None

    def trust(self) -> "Trust | None":
        """Return what that means; None where nobody is named."""
        from ephemeralml.model.oms import IdentityTrust, KeyTrust

        others = (self.identity, self.issuer, self.trust_config)
        if self.key is not None and others != (None, None, None):
            raise console.usage("--oms-key and --oms-identity contradict each other", hint="upstream signed in one way")
        if (self.identity is None) is not (self.issuer is None):
            raise console.usage(
                "--oms-identity and --oms-issuer go together", hint="an identity is what an issuer says"
            )
        for path in (self.key, self.trust_config):
            if path is not None and not path.is_file():
                raise console.usage(f"there is no file {str(path)!r}")
        if self.key is not None:
            return KeyTrust(self.key)
        if self.identity is not None and self.issuer is not None:
            return IdentityTrust(self.identity, self.issuer, self.trust_config)
        if self.trust_config is not None:
            raise console.usage("--oms-trust-config without --oms-identity", hint="add --oms-identity and --oms-issuer")
        return None


def upstream_of(model: Path, signer: Signer, signature: Path | None) -> "Upstream | None":
    """Verify upstream's signature of *model* if a key or an identity is given; else None.

    Raises:
        UsageError: The options contradict each other, or there is no signature.
        EphemeralError: As `verify_upstream`.
    """
    trust = signer.trust()
    if trust is None:
        if signature is not None:
            raise console.usage(
                "--oms-signature without anyone to trust", hint="add --oms-key, or --oms-identity and --oms-issuer"
            )
        return None
    bundle = _bundle(model, signature)
    from ephemeralml.model.oms import verify_upstream

    inside, root = bundle.resolve(), model.resolve()
    own = frozenset({inside.relative_to(root).as_posix()}) if inside.is_relative_to(root) else frozenset()
    with console.current().progress() as progress:
        progress.step("verify upstream's signature")
        return verify_upstream(model, bundle, trust, uncovered=own)


def _bundle(model: Path, given: Path | None) -> Path:
    if given is not None:
        if not given.is_file():
            raise console.usage(f"there is no signature {str(given)!r}")
        return given
    places = [bundle_beside(model), model / "model.sig"]
    for place in places:
        if place.is_file():
            return place
    raise console.usage(
        f"no model signature at {' or '.join(repr(str(place)) for place in places)}",
        hint="name it with --oms-signature",
    )
