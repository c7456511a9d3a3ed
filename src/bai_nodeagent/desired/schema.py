"""The schema of a document: the core's own sections and those of the kinds, as one.

A kind may refer to these "#/$defs/…": text, name, path, address, duration,
mode, secret-reference, text-or-secret, reserved. The two with secrets are for tables
called `env` (check.py refuses a reference elsewhere: there a text names the secret, see
`Kind.secret_names`). A `title` says in a few words what is allowed; it ends up in the
sentences. `{"not": {"enum": […]}}` beside an
"enum" reserves values for later, as "reserved" does for keys. A key is forbidden
by `{"not": {}}`, not by `false`, whose error lacks the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model import Kind
from .formats import NAME
from .places import SECRET_KEY, UNSET_KEY

Schema = Mapping[str, Any]

LATER = (
    "mount", "swarm", "plugins", "redis", "backendai", "export", "service", "account", "ports",
    "agent-config", "agent",
)  # fmt: skip
"""Sections that the contract knows. Without a kind they are reserved."""

_NAME: Schema = {
    "title": "a name of a-z, 0-9, '.', '_' and '-'",
    "type": "string",
    "pattern": NAME,
}
_RESERVED: Schema = {"$ref": "#/$defs/reserved"}

DEFS: Mapping[str, Schema] = {
    "text": {"title": "text", "type": "string"},
    "name": _NAME,
    "path": {"title": 'an absolute path without ".."', "type": "string", "format": "path"},
    "address": {"title": "an IPv4 or IPv6 address", "type": "string", "format": "address"},
    "duration": {
        "title": 'a duration such as "250ms", "10s", "5m" or "2h"',
        "type": "string",
        "format": "duration",
    },
    "mode": {"title": 'an octal mode such as "0640"', "type": "string", "format": "mode"},
    "secret-reference": {
        "title": "{ secret = NAME }",
        "type": "object",
        "properties": {SECRET_KEY: _NAME},
        "minProperties": 1,
        "additionalProperties": False,
    },
    "text-or-secret": {
        "anyOf": [{"$ref": "#/$defs/text"}, {"$ref": "#/$defs/secret-reference"}],
    },
    "reserved": {"title": "nothing yet", "not": {}},
}

_CORE: Mapping[str, Schema] = {
    "api-version": {"type": "integer", "const": 1},
    "requires-daemon": {
        "title": 'versions such as ">=0.1" or ">=0.1, <2"',
        "type": "string",
        "format": "versions",
    },
    "paused": {"type": "boolean"},
    "meta": {"title": "anything, for people"},
    "node": {
        "type": "object",
        "properties": {
            "groups": {
                "type": "array",
                "items": {"$ref": "#/$defs/name"},
                "uniqueItems": True,
            },
            "manager-ip": {
                "title": "the IPv4 or IPv6 address of the manager's host, and none of a link alone",
                "type": "string",
                "format": "host-address",
            },
            "agent-ip": {
                "title": 'an IPv4 or IPv6 address, "auto", or "interface:NAME"',
                "type": "string",
                "format": "agent-ip",
            },
        },
        "additionalProperties": False,
    },
    "rollout": {
        "type": "object",
        "properties": {"spread": {"$ref": "#/$defs/duration"}},
        "additionalProperties": False,
    },
}

CORE_SECTIONS = frozenset({"node", "rollout"})

_UNSET: Schema = {
    "type": "object",
    "properties": {UNSET_KEY: {"const": True}},
    "required": [UNSET_KEY],
    "additionalProperties": False,
}
_UNSET_ITEM: Schema = {
    "type": "object",
    "properties": {"name": _NAME, UNSET_KEY: {"const": True}},
    "required": ["name", UNSET_KEY],
    "additionalProperties": False,
}


def whole(kinds: Sequence[Kind]) -> Schema:
    """What the merged document has to be."""
    return _document({kind.section: kind.schema for kind in kinds})


def partial(kinds: Sequence[Kind]) -> Schema:
    """What one layer has to be: it may leave out what another layer says."""
    return _document({kind.section: without_required(kind.schema) for kind in kinds})


def json_schema(kinds: Sequence[Kind]) -> dict[str, Any]:
    """For editors: the schema of one layer, with `{unset = true}` where it may be."""
    sections = {kind.section: _or_unset(kind) for kind in kinds}
    document = dict(_document(sections))
    properties = dict(document["properties"])
    for section in CORE_SECTIONS:
        properties[section] = {"anyOf": [properties[section], _UNSET]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Desired state of Backend.AI nodes (bai-nodeagent)",
        **document,
        "properties": properties,
    }


def _document(sections: Mapping[str, Schema]) -> Schema:
    reserved = dict.fromkeys((name for name in LATER if name not in sections), _RESERVED)
    return {
        "type": "object",
        "properties": {**_CORE, **sections, **reserved},
        "required": ["api-version"],
        "additionalProperties": False,
        "$defs": DEFS,
    }


def _or_unset(kind: Kind) -> Schema:
    schema = without_required(kind.schema)
    if kind.named:
        items = {"anyOf": [schema.get("items", {}), _UNSET_ITEM]}
        schema = {**schema, "items": items}
    return {"anyOf": [schema, _UNSET]}


_ACROSS_LAYERS = frozenset(
    {"required", "dependentRequired", "dependentSchemas", "if", "then", "else"}
)
_BY_NAME = frozenset({"properties", "patternProperties"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SINGLE = frozenset({"items", "additionalProperties"})


def without_required(schema: Schema) -> Schema:
    """The schema without what only the merged document can be asked for."""
    return {
        word: _without_required(word, value)
        for word, value in schema.items()
        if word not in _ACROSS_LAYERS
    }


def _without_required(word: str, value: Any) -> Any:
    if word in _BY_NAME:
        return {
            name: without_required(item) if isinstance(item, Mapping) else item
            for name, item in value.items()
        }
    if word in _LISTS:
        return [without_required(item) for item in value]
    if word in _SINGLE and isinstance(value, Mapping):
        return without_required(value)
    return value


def resolved(schema: Any) -> Schema:
    """The schema itself in place of a "$ref" to one of ours; {} for true and false."""
    if not isinstance(schema, Mapping):
        return {}
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return DEFS.get(name, schema)


def is_reserved(schema: Any) -> bool:
    return resolved(schema) == DEFS["reserved"]
