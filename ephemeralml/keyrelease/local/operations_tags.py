"""Operations on names and notes of keys: aliases and tags."""

from collections.abc import Mapping
from typing import Any

from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.desk import Desk
from ephemeralml.keyrelease.local.faults import ServiceFault, not_found
from ephemeralml.keyrelease.local.paging import page
from ephemeralml.keyrelease.local.records import Alias

MAX_TAGS = 50
MAX_ALIASES_OF_A_KEY = 50


def create_alias(desk: Desk, call: Call) -> dict[str, Any]:
    """CreateAlias; the key's policy alone is asked, since aliases have none here."""
    name = _alias_name(desk, call)
    key = desk.key(call, "TargetKeyId", aliases=False)
    desk.authorize(call, "CreateAlias", key, more={"kms:RequestAlias": (name,)})
    desk.not_pending(key)
    if desk.store.alias(name) is not None:
        raise ServiceFault("AlreadyExistsException", f"an alias of the name {desk.names.alias_arn(name)} exists")
    if len(desk.store.aliases(key.id, "", MAX_ALIASES_OF_A_KEY)) == MAX_ALIASES_OF_A_KEY:
        raise ServiceFault("LimitExceededException", f"a key has at most {MAX_ALIASES_OF_A_KEY} aliases")
    desk.store.add_alias(Alias(name, key.id, call.timestamp))
    return {}


def delete_alias(desk: Desk, call: Call) -> dict[str, Any]:
    """DeleteAlias."""
    name = _alias_name(desk, call)
    alias = desk.store.alias(name)
    if alias is None:
        raise not_found(f"the alias {desk.names.alias_arn(name)}")
    key = desk.find(call, alias.key_id)
    desk.authorize(call, "DeleteAlias", key, more={"kms:RequestAlias": (name,)})
    desk.store.remove_alias(alias)
    return {}


def list_aliases(desk: Desk, call: Call) -> dict[str, Any]:
    """ListAliases, of one key or of all; the caller's own policies decide."""
    key = desk.key(call, aliases=False) if "KeyId" in call.fields else None
    desk.authorize(call, "ListAliases", None)
    key_id = None if key is None else key.id
    return page(
        desk,
        call,
        "Aliases",
        scope=f"aliases/{key_id or ''}",
        default=50,
        most=100,
        after=lambda last, limit: [
            (alias.name, _rendered(desk, alias)) for alias in desk.store.aliases(key_id, last, limit)
        ],
    )


def list_resource_tags(desk: Desk, call: Call) -> dict[str, Any]:
    """ListResourceTags."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "ListResourceTags", key)
    return page(
        desk,
        call,
        "Tags",
        scope=f"tags/{key.id}",
        default=50,
        most=50,
        after=lambda last, limit: [
            (name, {"TagKey": name, "TagValue": value}) for name, value in sorted(key.tags.items()) if name > last
        ][:limit],
    )


def tag_resource(desk: Desk, call: Call) -> dict[str, Any]:
    """TagResource."""
    tags = checked_tags(call)
    key = desk.key(call, aliases=False)
    desk.authorize(call, "TagResource", key)
    desk.not_pending(key)
    if len(key.tags.keys() | tags.keys()) > MAX_TAGS:
        raise ServiceFault("LimitExceededException", f"a key has at most {MAX_TAGS} tags")
    desk.store.set_tags(key.id, tags)
    return {}


def untag_resource(desk: Desk, call: Call) -> dict[str, Any]:
    """UntagResource; names that are not there are no fault."""
    key = desk.key(call, aliases=False)
    desk.authorize(call, "UntagResource", key)
    desk.not_pending(key)
    desk.store.remove_tags(key.id, call.fields["TagKeys"])
    return {}


def checked_tags(call: Call) -> Mapping[str, str]:
    """Return the request's tags.

    Raises:
        ServiceFault: TagException, LimitExceededException.
    """
    pairs = [(tag["TagKey"], tag["TagValue"]) for tag in call.get("Tags", ())]
    tags = dict(pairs)
    if len(tags) != len(pairs) or any(name.lower().startswith("aws:") for name in tags):
        raise ServiceFault("TagException", "a tag comes twice, or begins with aws:")
    if len(tags) > MAX_TAGS:
        raise ServiceFault("LimitExceededException", f"a key has at most {MAX_TAGS} tags")
    return tags


def _rendered(desk: Desk, alias: Alias) -> dict[str, Any]:
    return {
        "AliasName": alias.name,
        "AliasArn": desk.names.alias_arn(alias.name),
        "TargetKeyId": alias.key_id,
        "CreationDate": alias.created,
        "LastUpdatedDate": alias.created,
    }


def _alias_name(desk: Desk, call: Call) -> str:
    name: str = call.fields["AliasName"]
    read = desk.names.read(name)
    if read is None or not read.alias or name.startswith(("arn:", "alias/aws/")):
        raise ServiceFault("InvalidAliasNameException", "an alias is alias/ and a name that does not begin with aws/")
    return name
