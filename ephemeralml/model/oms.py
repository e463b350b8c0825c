"""OpenSSF Model Signing: what a model's upstream signed, and how a publisher signs (model-package.md section 1).

The `model-signing` package makes and verifies the bundles. It says whether a
signature holds and not what it covers, so the statement is read here as well,
from the same bytes, after it said yes.
"""

import base64
import binascii
import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model.create import Upstream
from ephemeralml.model.manifest import MAX_FILES
from ephemeralml.model.paths import check_path

MAX_BUNDLE_BYTES = 16 << 20
MAX_KEY_BYTES = 16 << 10
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True, slots=True)
class KeyTrust:
    """The upstream signs with an elliptic-curve key."""

    public_key: Path
    """PEM; P-256, P-384 or P-521."""


@dataclass(frozen=True, slots=True)
class IdentityTrust:
    """The upstream signs keyless, as an identity that an OpenID Connect issuer vouched for."""

    identity: str
    issuer: str
    trust_config: Path | None = None
    """A Sigstore trust configuration; None for the public instance, which is fetched."""


Trust = KeyTrust | IdentityTrust


def verify_upstream(model: Path, bundle: Path, trust: Trust, *, uncovered: frozenset[str] = frozenset()) -> Upstream:
    """Verify the bundle of the plaintext model at *model*.

    1. It is a Sigstore bundle around a model signature of version 1.0.   MalformedError
    2. It lists the SHA-256 of whole files.                               UPSTREAM_HASH_UNKNOWN
    3. Its signature holds under *trust*, and the files are as it says.   UPSTREAM_SIGNATURE_INVALID

    That the packaged files are those is checked where they are packaged
    (`Upstream.check`): they are read once more there.

    Args:
        model: The model's folder, or its one file.
        bundle: The signature's file.
        trust: Whose signature it has to be.
        uncovered: Paths of the model that it need not speak of: the bundle itself.

    Raises:
        MalformedError: Step 1.
        IncompleteError: Step 2.
        RejectedError: Step 3.
        UnavailableError: The package `model-signing` or a trust root is missing.
    """
    data = _read(bundle)
    # 1
    statement = _statement(data)
    # 2
    files = _files(statement, lone=None if model.is_dir() else model.name)
    # 3
    with _copied(data) as copy:
        _check_signature(model, copy, trust, files, uncovered)
    return Upstream(hashlib.sha256(data).digest(), files, uncovered)


def sign_upstream(model: Path, bundle: Path, private_key: Path) -> None:
    """Sign the plaintext model at *model* with an elliptic-curve key and write the bundle.

    Args:
        model: The model's folder, or its one file.
        bundle: The file to write; not one of the model's.
        private_key: PEM; P-256, P-384 or P-521, unencrypted.

    Raises:
        MalformedError: The key is none of these, or the model has a link.
        UnavailableError: The package `model-signing` is missing, or something
            cannot be read or written.
    """
    hashing, signing, _ = _library()
    _check_private(private_key)
    _check_plain(model)
    try:
        with redirect_stdout(io.StringIO()):
            chosen = hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)
            config = signing.Config().set_hashing_config(chosen).use_elliptic_key_signer(private_key=private_key)
            config.sign(model, bundle)
    except OSError as error:
        raise UnavailableError(f"cannot sign {str(model)!r}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedError(
            f"cannot sign {str(model)!r} with {str(private_key)!r}", hint="a model is a folder of plain files, or one"
        ) from error


def _check_signature(
    model: Path, bundle: Path, trust: Trust, files: Mapping[str, bytes], uncovered: frozenset[str]
) -> None:
    from cryptography.exceptions import InvalidSignature

    config = _verifier(trust, uncovered)
    # The trust root is there by now: whatever Sigstore's client still refuses is the bundle's fault.
    refusal = _sigstore_error()
    try:
        # The library prints a warning about old bundles, and results are ours to print.
        with redirect_stdout(io.StringIO()):
            config.verify(model, bundle)
    except OSError as error:
        raise UnavailableError(f"cannot verify the upstream signature: {error.strerror or 'no network'}") from error
    except InvalidSignature as error:
        raise _invalid("the signature does not fit the statement") from error
    except refusal as error:
        raise _invalid(f"Sigstore says {_said(error)!a}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if str(error).startswith("Key mismatch"):
            raise _invalid("another key made it", hint="is --oms-key the key of whoever signed?") from error
        raise _invalid(
            _difference(model, files, uncovered) or "the signature is damaged, or of another kind"
        ) from error


def _verifier(trust: Trust, uncovered: frozenset[str]) -> Any:
    hashing, _, verifying = _library()
    # Files by default, SHA-256, no links; and unlike its default, none of git's passed over: they would be packaged.
    if isinstance(trust, KeyTrust):
        _check_public(trust.public_key)
    hashed = hashing.Config().set_ignored_paths(paths=uncovered, ignore_git_paths=False)
    config = verifying.Config().set_hashing_config(hashed)
    try:
        if isinstance(trust, KeyTrust):
            config.use_elliptic_key_verifier(public_key=trust.public_key)
        else:
            config.use_sigstore_verifier(
                identity=trust.identity, oidc_issuer=trust.issuer, trust_config=trust.trust_config
            )
    except OSError as error:
        raise UnavailableError(f"cannot set up upstream verification: {error.strerror or 'no network'}") from error
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(trust, KeyTrust):
            raise _no_key(trust.public_key, "public", "the key is of another kind") from error
        raise MalformedError(f"{str(trust.trust_config)!r} is no Sigstore trust configuration") from error
    except _sigstore_error() as error:
        raise UnavailableError(f"Sigstore's trust root is not to be had: {_said(error)}") from error
    return config


def _sigstore_error() -> type[Exception]:
    """Return the root of the Sigstore client's errors."""
    from sigstore.errors import Error

    return Error


def _invalid(why: str, *, hint: str | None = None) -> RejectedError:
    return RejectedError(
        f"the upstream's model signature does not hold: {why}",
        code="UPSTREAM_SIGNATURE_INVALID",
        hint=hint or "every file of the model has to be as upstream signed it, and no other may lie there",
    )


def _difference(model: Path, files: Mapping[str, bytes], uncovered: frozenset[str]) -> str | None:
    """Return in which file the model differs from what was signed; None if it does not."""
    if not model.is_dir():
        found = {model.name: model}
    else:
        found = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if not _is_folder(path)}
    for name in sorted((set(found) | set(files)) - uncovered):
        if name not in found:
            return f"{name[:96]!a} is missing"
        if found[name].is_symlink():
            return f"{name[:96]!a} is a symbolic link"
        if name not in files:
            return f"{name[:96]!a} was not there when it was signed"
        try:
            with found[name].open("rb") as file:
                same = hashlib.file_digest(file, "sha256").digest() == files[name]
        except OSError as error:
            return f"{name[:96]!a} cannot be read ({error.strerror})"
        if not same:
            return f"{name[:96]!a} is not as it was signed"
    return None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _check_plain(model: Path) -> None:
    """Refuse a model with links; errors as `sign_upstream`."""
    for path in [model, *model.rglob("*")]:
        if path.is_symlink():
            raise MalformedError(
                f"{str(path)!a} is a symbolic link",
                hint="give the model itself, or a copy with links resolved (cp -rL)",
            )


def _check_private(path: Path) -> None:
    """Refuse a private key that signs no model; errors as `sign_upstream`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_key_bytes(path), password=None)
    except TypeError as error:
        raise _no_key(path, "private", "it is encrypted with a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private", "there is none in it") from error
    _check_curve(path, "private", key)


def _check_public(path: Path) -> None:
    """Refuse a public key that verifies no model's signature.

    Raises:
        MalformedError: It is none.
        UnavailableError: It cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public", "there is none in it") from error
    _check_curve(path, "public", key)


def _check_curve(path: Path, half: str, key: object) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        kind = type(key).__name__.lstrip("_").partition("P")[0]
        raise _no_key(path, half, f"it is an {kind} key")
    if key.curve.name not in _CURVES:
        raise _no_key(path, half, f"its curve is {key.curve.name}")


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise UnavailableError(f"cannot read the key {str(path)!r}: {error.strerror}") from error


def _no_key(path: Path, half: str, why: str) -> MalformedError:
    return MalformedError(
        f"{str(path)!r} is no EC {half} key in PEM: {why}",
        hint="OpenSSF model signatures use EC keys of P-256, P-384 or P-521, not the Ed25519 keys of `key generate`; "
        "openssl ecparam -name prime256v1 -genkey -noout makes one, openssl ec -pubout its public half",
    )


def _said(error: Exception) -> str:
    """Return the first line of what a library says; the others may quote the input."""
    lines = str(error).splitlines()
    return lines[0][:300] if lines and lines[0] else type(error).__name__


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise UnavailableError(
            f"OpenSSF model signatures need the package model-signing ({error.name} is missing)",
            hint="pip install 'ephemeralml[oms]'",
        ) from error
    return hashing, signing, verifying


def _read(bundle: Path) -> bytes:
    try:
        with bundle.open("rb") as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read {str(bundle)!r}: {error.strerror}") from error
    if len(data) > MAX_BUNDLE_BYTES:
        raise MalformedError(f"{str(bundle)!r} has more than {MAX_BUNDLE_BYTES} bytes")
    return data


@contextmanager
def _copied(data: bytes) -> Iterator[Path]:
    """Yield a file with *data*, so that what is verified is what was read."""
    with tempfile.NamedTemporaryFile(prefix="model-signature-") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def _statement(data: bytes) -> dict[str, Any]:
    """Read the in-toto statement inside a bundle; whether it was signed is not asked here."""
    bundle = strict_json.parse_object(data, max_bytes=MAX_BUNDLE_BYTES)
    if bundle.get("mediaType") != MEDIA_TYPE:
        raise MalformedError(f"no Sigstore bundle of version 0.3: {ascii(bundle.get('mediaType'))[:64]}")
    signed = _object(bundle, "dsseEnvelope")
    if signed.get("payloadType") != PAYLOAD_TYPE or type(signed.get("payload")) is not str:
        raise MalformedError("the bundle holds no in-toto statement")
    signatures = signed.get("signatures")
    if type(signatures) is not list or len(signatures) != 1:
        raise MalformedError("the bundle has not exactly one signature")
    try:
        payload = base64.b64decode(signed["payload"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("the bundle's payload is not base64") from error
    statement = strict_json.parse_object(payload, max_bytes=MAX_BUNDLE_BYTES)
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != PREDICATE_TYPE:
        raise MalformedError(f"no model signature of version 1.0: {ascii(statement.get('predicateType'))[:64]}")
    return statement


def _files(statement: dict[str, Any], *, lone: str | None) -> dict[str, bytes]:
    """Return the SHA-256 of every file that a statement lists; a model of one file has the name *lone*."""
    predicate = _object(statement, "predicate")
    serialization = _object(predicate, "serialization")
    if serialization.get("method") != "files" or serialization.get("hash_type") != "sha256":
        raise IncompleteError(
            "the upstream's signature lists no SHA-256 of whole files, so it cannot be held against a manifest",
            code="UPSTREAM_HASH_UNKNOWN",
            hint="package without --oms-key and --oms-identity, or ask upstream to sign with sha256 by file",
        )
    resources = predicate.get("resources")
    if type(resources) is not list or not 0 < len(resources) <= MAX_FILES:
        raise MalformedError(f"the upstream's signature lists no 1 to {MAX_FILES} files")
    files: dict[str, bytes] = {}
    for resource in resources:
        if type(resource) is not dict or resource.get("algorithm") != "sha256":
            raise MalformedError("a file of the upstream's signature has no SHA-256")
        name, digest = resource.get("name"), resource.get("digest")
        if type(name) is not str or name in files:
            raise MalformedError("a file of the upstream's signature has no name of its own")
        name = lone if name == "." and lone is not None else name
        check_path(name)
        if type(digest) is not str or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise MalformedError(f"{name[:64]!a}: the digest of the upstream's signature is not 64 hex digits")
        files[name] = bytes.fromhex(digest)
    return files


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if type(value) is not dict:
        raise MalformedError(f"the upstream's signature has no {name}")
    return value
