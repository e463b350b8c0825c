"""Find the ways around the gate at Google Cloud (key-release.md section 7, G01 to G09)."""

from collections.abc import Iterator

from ephemeralml.errors import IncompleteError
from ephemeralml.keyrelease.policy import cel
from ephemeralml.keyrelease.policy.findings import Finding, Rule, Severity
from ephemeralml.keyrelease.policy.gcp_export import DECRYPTING, Export

ISSUER = "https://confidentialcomputing.googleapis.com"
DIGEST = ("assertion", "submods", "container", "image_digest")
_SUPPORT = ("assertion", "submods", "confidential_space", "support_attributes")
_DEBUG = ("assertion", "dbgstat")
_HARMLESS = (
    *("roles/cloudkms.viewer", "roles/cloudkms.publicKeyViewer", "roles/cloudkms.cryptoKeyEncrypter", "roles/viewer"),
    *("roles/cloudkms.admin", "roles/browser", "roles/cloudkms.expertRawPKCS1", "roles/cloudkms.importer"),
)
_WORKLOADS = ("principal:", "principalSet:")
_SERVICE_ACCOUNTS = ("serviceAccount:", "deleted:serviceAccount:")
_TEES = frozenset({"GCP_AMD_SEV", "GCP_AMD_SEV_ES", "GCP_AMD_SEV_SNP", "GCP_INTEL_TDX"})
"""Values of hwmodel whose memory the host cannot read."""
_FIX_CONDITION = "write the condition of docs/key-policy.md"


def lint_export(export: Export, *, hsm: bool = False) -> tuple[Finding, ...]:
    """Return every finding, the worst first.

    Args:
        export: What was exported.
        hsm: Whether the key was meant to be in an HSM.
    """
    found = [
        *_condition(export),
        *_members(export),
        *_decrypters(export),
        *_audience(export),
        *_protection(export, hsm=hsm),
    ]
    if export.issuer != ISSUER:
        found.append(
            Finding(
                Rule.G06,
                Severity.ERROR,
                "issuerUri",
                f"tokens of {export.issuer[:200]!a} are believed, which vouches for no Confidential Space",
                f"set the issuer to {ISSUER}",
            )
        )
    order = (Severity.ERROR, Severity.UNPROVEN, Severity.WARNING, Severity.INFO)
    return tuple(sorted(found, key=lambda finding: (order.index(finding.severity), finding.rule.name)))


def _condition(export: Export) -> Iterator[Finding]:
    """G01, G02, G07."""
    if not export.condition or not export.condition.strip():
        yield Finding(
            Rule.G01,
            Severity.ERROR,
            "attributeCondition",
            "every Confidential Space workload in the world becomes a principal of the pool",
            _FIX_CONDITION,
        )
        return
    try:
        expression = cel.parse(export.condition)
    except IncompleteError as error:
        yield Finding(Rule.G02, Severity.UNPROVEN, "attributeCondition", error.message, error.hint or _FIX_CONDITION)
        return
    yield from _left_open(expression)
    yield from _debuggable(expression)
    if any("cc_mode" in path for path in cel.fields(expression)):
        yield Finding(
            Rule.G02,
            Severity.WARNING,
            "attributeCondition",
            "cc_mode is what the machine says of itself, and no attestation of a GPU",
            "verify the GPU's own evidence in the client policy",
        )


def _left_open(expression: cel.Expression) -> Iterator[Finding]:
    wanted = (
        ("swname", ("assertion", "swname"), "software that is no Confidential Space image"),
        ("dbgstat", _DEBUG, "images that an operator can debug"),
        ("hwmodel", ("assertion", "hwmodel"), "machines without the TEE that was meant"),
        ("image_digest", DIGEST, "any container image"),
        ("project_id", ("assertion", "submods", "gce", "project_id"), "workloads of any project"),
    )
    for name, path, admits in wanted:
        values = cel.demanded(expression, path)
        fine = {"swname": frozenset({"CONFIDENTIAL_SPACE"}), "hwmodel": _TEES}.get(name, values)
        if values is None or fine is None or not values <= fine:
            yield Finding(
                Rule.G02,
                Severity.ERROR,
                "attributeCondition",
                f"it does not fix {name}: it admits {admits}",
                _FIX_CONDITION,
            )


def _debuggable(expression: cel.Expression) -> Iterator[Finding]:
    debug, support = cel.demanded(expression, _DEBUG), cel.demanded(expression, _SUPPORT)
    if debug is not None and not debug <= {"disabled-since-boot"}:
        yield Finding(
            Rule.G07,
            Severity.ERROR,
            "attributeCondition",
            "it admits workloads that can be debugged: their operator reads the key from memory",
            "demand assertion.dbgstat == 'disabled-since-boot'",
        )
    if support is None or not support <= {"STABLE"}:
        yield Finding(
            Rule.G07,
            Severity.ERROR,
            "attributeCondition",
            "it admits Confidential Space images that Google does not support, debug images among them",
            "demand 'STABLE' in assertion.submods.confidential_space.support_attributes",
        )


def _members(export: Export) -> Iterator[Finding]:
    """G03."""
    mapped = export.mapping.get("attribute.image_digest")
    if mapped is not None and "".join(mapped.split()) != ".".join(DIGEST):
        yield Finding(
            Rule.G03,
            Severity.ERROR,
            "attributeMapping",
            f"attribute.image_digest is {mapped[:120]!a}, which is not the image's digest",
            f"map it to {'.'.join(DIGEST)}",
        )
    for binding, member in export.decrypting():
        why = _loose(member, export)
        if why is not None:
            yield Finding(
                Rule.G03,
                Severity.ERROR,
                f"{binding.level} {binding.role}",
                f"{member[:200]} {why}",
                "name principalSet://…/attribute.image_digest/sha256:…",
            )


def _loose(member: str, export: Export) -> str | None:
    if not member.startswith(_WORKLOADS):
        return None
    if not member.startswith(export.principals):
        return "is of another pool, whose conditions nobody looked at"
    tail = member.partition("/workloadIdentityPools/")[2].partition("/")[2]
    if tail in ("*", ""):
        return "is everyone whom any provider of the pool admits"
    kind, _, _ = tail.partition("/")
    if kind.startswith("attribute.") and kind not in export.mapping:
        return f"depends on {kind}, which the provider does not map"
    if kind == "group":
        return "is a group, which no workload token proves"
    return None


def _decrypters(export: Export) -> Iterator[Finding]:
    """G04 and G08."""
    for binding, member in export.decrypting():
        where = f"{binding.level} {binding.role}"
        wide = binding.level != "key"
        basic = binding.role in ("roles/owner", "roles/editor")
        if not member.startswith((*_WORKLOADS, *_SERVICE_ACCOUNTS)) or basic or wide:
            what = "with it every key below" if wide else "without a token of a workload"
            yield Finding(
                Rule.G04,
                Severity.ERROR,
                where,
                f"{member[:200]} may decrypt, {what}",
                "give roles/cloudkms.cryptoKeyDecrypter on the key alone, to the image's principal set",
            )
        if member.startswith(_SERVICE_ACCOUNTS):
            yield Finding(
                Rule.G08,
                Severity.ERROR,
                where,
                f"{member[:200]} may decrypt: whoever holds its key or may impersonate it does so without attestation",
                "take the role from the service account; workloads call with their federated token",
            )
    unknown = sorted({one.role for one in export.bindings if one.role not in DECRYPTING and one.role not in _HARMLESS})
    for role in unknown:
        if role.startswith(("projects/", "organizations/")) or "kms" in role.lower():
            yield Finding(
                Rule.G04,
                Severity.UNPROVEN,
                role,
                "whether this role decrypts is not known here",
                "replace it by a predefined role, or look at its permissions",
            )
    for name in export.missing:
        yield Finding(Rule.G04, Severity.UNPROVEN, name, "who may decrypt by it is not known", f"export {name} too")


def _audience(export: Export) -> Iterator[Finding]:
    """G05."""
    own = f"//iam.googleapis.com/{export.name}"
    if export.audiences != (own,):
        shown = ", ".join(export.audiences)[:200] or "none, so two forms of its name"
        yield Finding(
            Rule.G05,
            Severity.ERROR,
            "allowedAudiences",
            f"the audiences are {shown}: a token made for someone else may be taken for the key",
            f"allow {own} and nothing else",
        )
    for audience in sorted(set(export.audiences) & set(export.client_audiences)):
        yield Finding(
            Rule.G05,
            Severity.ERROR,
            "allowedAudiences",
            f"clients get tokens for {audience[:200]}, and could present them for the key",
            "give clients an audience of their own",
        )


def _protection(export: Export, *, hsm: bool) -> Iterator[Finding]:
    """G09."""
    if hsm and export.protection != "HSM":
        yield Finding(
            Rule.G09,
            Severity.UNPROVEN if export.protection is None else Severity.ERROR,
            "protectionLevel",
            f"the key's protection level is {export.protection or 'not known'}, and an HSM was asked for",
            "make the key with --protection-level hsm, and rewrap the packages",
        )
