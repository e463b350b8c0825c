"""Write one key policy for each row of the lint table: it trips that row and no other.

Run it again after a change: ``python tests/vectors/key-policy/generate.py``. It
imports nothing of ours, so that the policies are not what our renderer thinks.
"""

import base64
import copy
import json
from pathlib import Path
from typing import Any

ACCOUNT = "arn:aws:iam::111122223333:"
ADMIN, PUBLISHER, PARENT = (f"{ACCOUNT}role/{name}" for name in ("kms-admin", "model-publisher", "enclave-parent"))
A, B = ([f"{index}{letter}" * 48 for index in range(3)] for letter in "ab")
IMAGE, PCR = "kms:RecipientAttestation:ImageSha384", "kms:RecipientAttestation:PCR"
ONE_RAMDISK = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
MODEL = {"StringEquals": {"kms:EncryptionContext:model_id": "minilm-l6-v2"}}
WAYS_OUT = [
    f"kms:{name}"
    for name in ("ReEncryptFrom", "CreateGrant", "ReplicateKey", "ImportKeyMaterial", "DeriveSharedSecret")
]


def allow(sid: str, who: Any, action: Any, condition: Any = None) -> dict[str, Any]:
    made = {"Sid": sid, "Effect": "Allow", "Principal": {"AWS": who}, "Action": action, "Resource": "*"}
    return made | ({"Condition": condition} if condition else {})


def deny(sid: str, action: Any, condition: Any = None) -> dict[str, Any]:
    made = {"Sid": sid, "Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*"}
    return made | ({"Condition": condition} if condition else {})


def release(registers: dict[str, Any], operator: str = "StringEqualsIgnoreCase", **more: Any) -> dict[str, Any]:
    return allow("Release1", PARENT, "kms:Decrypt", {operator: registers} | MODEL | more)


def image(values: list[str]) -> dict[str, Any]:
    return {IMAGE: values[0], f"{PCR}1": values[1], f"{PCR}2": values[2]}


def only(**registers: Any) -> dict[str, Any]:
    names = {"image": IMAGE} | {f"pcr{index}": f"{PCR}{index}" for index in range(9)}
    return deny(
        "OnlyAttested", "kms:Decrypt", {"StringNotEqualsIgnoreCase": {names[k]: v for k, v in registers.items()}}
    )


SAFE = {
    "Administer": allow("Administer", ADMIN, ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy"]),
    "Look": allow("Look", [PUBLISHER, PARENT], "kms:DescribeKey"),
    "Publish": allow("Publish", PUBLISHER, ["kms:GenerateDataKey", "kms:Encrypt"], MODEL),
    "Release1": release(image(A)),
    "OnlyAttested": only(image=[A[0]]),
    "NoOtherWayOut": deny("NoOtherWayOut", WAYS_OUT),
}


def changed(*without: str, extra: list[dict[str, Any]] | None = None, **statements: dict[str, Any]) -> dict[str, Any]:
    kept = {name: copy.deepcopy(item) for name, item in (SAFE | statements).items() if name not in without}
    return {"Version": "2012-10-17", "Statement": [*kept.values(), *(extra or [])]}


def b64(value: str) -> str:
    return base64.b64encode(bytes.fromhex(value)).decode()


GRANT = {"GrantId": "g-1", "GranteePrincipal": f"{ACCOUNT}role/batch", "Operations": ["Decrypt"]}
KEY = {"Arn": "arn:aws:kms:eu-west-1:111122223333:key/1", "MultiRegion": True, "Origin": "AWS_KMS"}
KEY |= {"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT"}
BUT = {"NotPrincipal": {"AWS": ADMIN}}
ANALYST = f"{ACCOUNT}role/analyst"
EXCEPTED = [name for name in WAYS_OUT if name != "kms:ReEncryptFrom"]


def without(statement: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {name: value for name, value in statement.items() if name not in fields}


def on(statement: dict[str, Any], operator: str) -> dict[str, Any]:
    """Return the statement with its registers under another operator."""
    (_, registers), *others = statement["Condition"].items()
    return statement | {"Condition": {operator: registers} | dict(others)}


FILES: dict[str, dict[str, Any]] = {
    "safe": {"policy": changed()},
    "K01-analyst": {"policy": changed("OnlyAttested", extra=[allow("Analyse", ANALYST, "kms:Decrypt", MODEL)])},
    "K01-wildcard-action": {"policy": changed("OnlyAttested", extra=[allow("Analyse", ANALYST, "kms:Dec*", MODEL)])},
    "K01-any-document": {
        "policy": changed(
            "OnlyAttested", Release1=allow("R", PARENT, "kms:Decrypt", {"Null": {IMAGE: "false"}} | MODEL)
        )
    },
    "K01-service": {
        "policy": changed(
            "OnlyAttested",
            extra=[allow("S", [], "kms:Decrypt", MODEL) | {"Principal": {"Service": "lambda.amazonaws.com"}}],
        )
    },
    "K02-decrypt": {
        "policy": changed("OnlyAttested", extra=[allow("Root", f"{ACCOUNT}root", ["kms:DescribeKey", "kms:Decrypt"])])
    },
    "K02-account-number": {"policy": changed("OnlyAttested", extra=[allow("Root", "111122223333", "kms:D*")])},
    "K03-anyone": {"policy": changed(Look=allow("Look", "*", "kms:DescribeKey"))},
    "K03-any-account": {
        "policy": changed(
            Look=allow("Look", "*", "kms:DescribeKey", {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/me"}})
        )
    },
    "K04-tpm": {"policy": changed(Release1=release(image(A) | {f"{PCR.replace('PCR', 'NitroTPMPCR')}4": A[1]}))},
    "K04-sha256": {"policy": changed(Release1=release(image(A) | {IMAGE.replace("384", "256"): A[1]}))},
    "K04-context": {"policy": changed(Release1=release(image(A), StringLike={"kms:EncryptionContex:version": "1.*"}))},
    "K05-if-exists": {"policy": changed(Release1=on(SAFE["Release1"], "StringEqualsIgnoreCaseIfExists"))},
    "K05-for-all": {"policy": changed(Release1=on(SAFE["Release1"], "ForAllValues:StringEqualsIgnoreCase"))},
    "K05-negated": {"policy": changed(Release1=release(image(A), StringNotEquals={f"{PCR}3": B[1]}))},
    "K05-like": {"policy": changed(Release1=release(image(A), StringLike={f"{PCR}3": "a*"}))},
    "K05-upper-case": {
        "policy": changed(Release1=release({}, StringEquals=image([v.upper() for v in A]) | MODEL["StringEquals"]))
    },
    "K06-base64": {"policy": changed(Release1=release(image([A[0], b64(A[1]), A[2]])))},
    "K06-0x": {"policy": changed(Release1=release(image([A[0], f"0x{A[1]}", A[2]])))},
    "K06-prefix": {"policy": changed(Release1=release(image([A[0], A[1], f"sha384:{A[2]}"])))},
    "K06-sha256": {"policy": changed(Release1=release(image([A[0], A[1][:64], A[2]])))},
    "K06-spaces": {"policy": changed(Release1=release(image([A[0], f" {A[1]}", A[2]])))},
    "K07-zero": {"policy": changed(Release1=release(image([A[0], "0" * 96, A[2]])))},
    "K07-one-ramdisk": {"policy": changed(Release1=release(image([*A[:2], ONE_RAMDISK])))},
    "K08-create-grant": {
        "policy": changed(NoOtherWayOut=deny("NoOtherWayOut", [w for w in WAYS_OUT if "Grant" not in w]))
    },
    "K08-not-principal": {"policy": changed(OnlyAttested=without(SAFE["OnlyAttested"], "Principal") | BUT)},
    "K08-narrow": {"policy": changed(OnlyAttested=SAFE["OnlyAttested"] | {"Principal": {"AWS": f"{ACCOUNT}root"}})},
    "K08-any-value": {
        "policy": changed(OnlyAttested=on(SAFE["OnlyAttested"], "ForAnyValue:StringNotEqualsIgnoreCase"))
    },
    "K08-null-false": {
        "policy": changed(
            OnlyAttested=deny(
                "OnlyAttested", "kms:Decrypt", SAFE["OnlyAttested"]["Condition"] | {"Null": {IMAGE: "false"}}
            )
        )
    },
    "K08-by-address": {
        "policy": changed(
            OnlyAttested=deny(
                "OnlyAttested",
                "kms:Decrypt",
                SAFE["OnlyAttested"]["Condition"] | {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
            )
        )
    },
    "K08-one-resource": {
        "policy": changed(NoOtherWayOut=SAFE["NoOtherWayOut"] | {"Resource": "arn:aws:kms:*:*:key/2"})
    },
    "K08-no-resource": {"policy": changed(NoOtherWayOut=without(SAFE["NoOtherWayOut"], "Resource"))},
    "K08-any-document": {
        "policy": changed(OnlyAttested=deny("OnlyAttested", "kms:Decrypt", {"Null": {IMAGE: "true"}}))
    },
    "K08-weak-register": {
        "policy": changed(Release1=release(image(A) | {f"{PCR}3": A[1]}), OnlyAttested=only(pcr3=A[1]))
    },
    "K08-derive-with-a-document": {
        "policy": changed(NoOtherWayOut=deny("NoOtherWayOut", WAYS_OUT, {"Null": {IMAGE: "true"}}))
    },
    "K08-granting-role": {
        "policy": changed(
            NoOtherWayOut=deny("NoOtherWayOut", [name for name in WAYS_OUT if name != "kms:CreateGrant"]),
            extra=[deny("Grant", "kms:CreateGrant", {"ArnNotEquals": {"aws:PrincipalArn": f"{ACCOUNT}role/granter"}})],
        )
    },
    "K08-missing": {"policy": changed("NoOtherWayOut")},
    "K08-rewrap-warns": {
        "policy": changed(
            NoOtherWayOut=deny("NoOtherWayOut", EXCEPTED),
            extra=[
                deny("Rewrap", "kms:ReEncryptFrom", {"ArnNotEquals": {"aws:PrincipalArn": f"{ACCOUNT}role/rewrap"}})
            ],
        )
    },
    "K08-two-exceptions": {
        "policy": changed(
            NoOtherWayOut=deny("NoOtherWayOut", EXCEPTED),
            extra=[
                deny(name, "kms:ReEncryptFrom", {"ArnNotEquals": {"aws:PrincipalArn": f"{ACCOUNT}role/{name}"}})
                for name in ("one", "two")
            ],
        )
    },
    "K09-left-over": {"policy": changed(OnlyAttested=only(image=[A[0], B[0]]))},
    "K09-denied": {"policy": changed(extra=[SAFE["Release1"] | {"Sid": "R2"} | without(release(image(B)), "Sid")])},
    "K09-closed": {"policy": changed(extra=[deny("Closed", "kms:Decrypt")])},
    "K09-two-lists": {"policy": changed(extra=[only(image=[B[0]]) | {"Sid": "Also"}])},
    "K10-grant": {"policy": changed("OnlyAttested"), "grants": {"Grants": [GRANT]}, "also": ["K12"]},
    "K10-grant-behind-deny": {"policy": changed(), "grants": {"Grants": [GRANT]}},
    "K10-grant-of-the-exception": {
        "policy": changed(
            NoOtherWayOut=deny("NoOtherWayOut", EXCEPTED),
            extra=[
                deny("Rewrap", "kms:ReEncryptFrom", {"ArnNotEquals": {"aws:PrincipalArn": f"{ACCOUNT}role/rewrap"}})
            ],
        ),
        "grants": {
            "Grants": [
                GRANT
                | {
                    "GranteePrincipal": "arn:aws:sts::111122223333:assumed-role/rewrap/s",
                    "Operations": ["ReEncryptFrom"],
                }
            ]
        },
        "also": ["K08"],
    },
    "K11-publish": {"policy": changed(Publish=allow("Publish", PUBLISHER, ["kms:GenerateDataKey"]))},
    "K11-release": {"policy": changed(Release1=allow("Release1", PARENT, "kms:Decrypt", {"StringEquals": image(A)}))},
    "K12-no-deny": {"policy": changed("OnlyAttested", "NoOtherWayOut")},
    "K12-no-decrypt-deny": {"policy": changed("OnlyAttested")},
    "K13-lists": {
        "policy": changed(
            Release1=release({IMAGE: [A[0], B[0]], f"{PCR}1": [A[1], B[1]], f"{PCR}2": [A[2], B[2]]}),
            OnlyAttested=only(image=[A[0], B[0]]),
        )
    },
    "K14-role-only": {
        "policy": changed(Release1=release({f"{PCR}3": A[0], f"{PCR}4": A[1]}), OnlyAttested=only(pcr3=A[0]))
    },
    "K14-bootstrap": {"policy": changed(Release1=release({f"{PCR}1": A[1]}), OnlyAttested=only(pcr1=A[1]))},
    "K14-application": {"policy": changed(Release1=release({f"{PCR}2": A[2]}), OnlyAttested=only(pcr2=A[2]))},
    "K14-signer-debug": {"policy": changed(Release1=release({f"{PCR}8": A[0]}), OnlyAttested=only(pcr8=A[0]))},
    "K14-signer-warns": {
        "policy": changed(
            Release1=release({f"{PCR}8": A[0]}),
            OnlyAttested=only(pcr8=A[0]),
            extra=[deny("NoDebug", "kms:Decrypt", {"StringEqualsIgnoreCase": {IMAGE: "0" * 96}})],
        )
    },
    "K15-publisher": {"policy": changed(extra=[allow("Also", PUBLISHER, "kms:Put*")])},
    "K15-parent-rewraps": {
        "policy": changed(
            NoOtherWayOut=deny("NoOtherWayOut", EXCEPTED),
            extra=[
                allow("Rewrap", PARENT, "kms:ReEncryptFrom", MODEL),
                deny("NoOtherRewrap", "kms:ReEncryptFrom", {"ArnNotEquals": {"aws:PrincipalArn": PARENT}}),
            ],
        ),
        "also": ["K08"],
    },
    "K15-session": {
        "policy": changed(
            extra=[allow("Also", "arn:aws:sts::111122223333:assumed-role/enclave-parent/i-1", "kms:PutKeyPolicy")]
        )
    },
    "K15-by-identity-policy": {
        "policy": changed(extra=[allow("Root", f"{ACCOUNT}root", "kms:PutKeyPolicy")]),
        "identity_policies": {
            PARENT: {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}},
            PUBLISHER: {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}},
        },
    },
    "K16-replica": {"policy": changed(), "key": {"KeyMetadata": KEY, "KeyRotationEnabled": True}},
    "K16-external": {"policy": changed(), "key": {"KeyMetadata": KEY | {"MultiRegion": False, "Origin": "EXTERNAL"}}},
    "K16-signing": {
        "policy": changed(),
        "key": {"KeyMetadata": KEY | {"MultiRegion": False, "KeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY"}},
    },
    "K16-no-rotation": {
        "policy": changed(),
        "key": {"KeyMetadata": KEY | {"MultiRegion": False}, "KeyRotationEnabled": False},
    },
    "K18-not-action": {
        "policy": changed(
            extra=[
                without(allow("Audit", f"{ACCOUNT}role/audit", [], MODEL), "Action")
                | {"NotAction": ["kms:PutKeyPolicy", "kms:CreateGrant", "kms:ReplicateKey"]}
            ]
        )
    },
    "K18-unknown-key": {"policy": changed(Release1=release(image(A), StringLike={"aws:Weather": "sun"}))},
    "K18-unknown-operator": {"policy": changed(Release1=release(image(A), StringIs={"aws:userid": "x"}))},
    "K18-variable": {
        "policy": changed(Release1=release(image(A), StringEqualsIfExists={"aws:userid": "${aws:username}"}))
    },
    "K18-delegated": {"policy": changed(extra=[allow("Root", f"{ACCOUNT}root", "kms:PutKeyPolicy")])},
    "K19-look": {"policy": changed(Look=allow("Look", PARENT, "kms:DescribeKey", MODEL))},
    "K19-attested-encrypt": {
        "policy": changed(Publish=allow("Publish", PUBLISHER, "kms:Encrypt", MODEL | {"StringLike": {IMAGE: A[0]}}))
    },
}


def main() -> None:
    for name, document in FILES.items():
        Path(__file__).with_name(f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
