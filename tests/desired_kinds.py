"""Small kinds, and short ways to call `desired`, for the tests of desired state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bai_nodeagent import desired
from bai_nodeagent.desired import Desired, Document, Variables
from bai_nodeagent.model import Kind, NodeSpec


def _kind(section: str, schema: Mapping[str, Any], **more: Any) -> Kind:
    return Kind(section, schema, lambda _node, _host: [], **more)


PLAIN = _kind(
    "agent",
    {
        "type": "object",
        "properties": {
            "state": {"enum": ["running", "stopped"]},
            "supervisor": {"enum": ["child", "systemd"]},
            "unit": {"$ref": "#/$defs/text"},
            "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "workdir": {"$ref": "#/$defs/path"},
            "stop-timeout": {"$ref": "#/$defs/duration"},
            "tries": {"type": "integer", "minimum": 1, "maximum": 9},
            "share": {"type": "number", "exclusiveMinimum": 0},
            "token": {"type": "string", "pattern": "^[a-z]+$"},
            "env": {
                "type": "object",
                "propertyNames": {"pattern": "^[A-Z_]+$", "title": "a name of A-Z and _"},
                "additionalProperties": {"$ref": "#/$defs/text-or-secret"},
            },
            "on": {
                "oneOf": [
                    {"$ref": "#/$defs/address"},
                    {
                        "type": "object",
                        "properties": {
                            "host": {"$ref": "#/$defs/address"},
                            "port": {"type": "integer"},
                        },
                        "additionalProperties": False,
                    },
                    {"title": '"any"', "const": "any"},
                ]
            },
            "health-timeout": {"$ref": "#/$defs/reserved"},
        },
        "required": ["supervisor"],
        "dependentRequired": {"tries": ["stop-timeout"]},
        "if": {"properties": {"supervisor": {"const": "child"}}, "required": ["supervisor"]},
        "then": {"required": ["command"], "properties": {"unit": {"not": {}}}},
        "additionalProperties": False,
    },
    agent_values=lambda section: {("agent", "unit"): section["unit"]} if "unit" in section else {},
)

NAMED = _kind(
    "mount",
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": {"$ref": "#/$defs/name"},
                "source": {"type": "string", "minLength": 1},
                "target": {"$ref": "#/$defs/path"},
                "mode": {"$ref": "#/$defs/mode"},
                "required": {"type": "boolean"},
                "options": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
                "state": {"enum": ["mounted", "unmounted"], "not": {"enum": ["lazy"]}},
            },
            "required": ["name", "target"],
            "additionalProperties": False,
        },
    },
    named=True,
)

AGENT_CONFIG = _kind(
    "agent-config",
    {
        "type": "object",
        "properties": {
            "path": {"$ref": "#/$defs/path"},
            "values": {"title": "a table of agent.toml's keys", "type": "object"},
        },
        "additionalProperties": False,
    },
)

KINDS = (PLAIN, NAMED, AGENT_CONFIG)
VERSION = "0.1.0"
HERE = Variables(node_id="i-node01", hostname="node01", cluster="local", agent_ip="10.20.30.11")
HEAD = "api-version = 1\n"


def documents(layers: Mapping[str, str | bytes]) -> list[Document]:
    return [
        Document(layer, f"desired/{layer}", number, _bytes(text))
        for number, (layer, text) in enumerate(layers.items(), start=1)
    ]


def judged(layers: Mapping[str, str | bytes]) -> Desired:
    """Layers by name, in merge order."""
    return desired.evaluate(documents(layers), (), KINDS, VERSION)


def reported(text: str | bytes) -> list[str]:
    """The mistakes of one document, as sentences without the layer."""
    found = desired.check_alone("x", _bytes(text), KINDS, VERSION)
    return [str(mistake).removeprefix("x: ") for mistake in found]


def merged(*texts: str) -> Mapping[str, Any]:
    """What valid documents make together; `HEAD` is put before each."""
    names = ["cluster", *(f"group/g{n}" for n in range(1, len(texts)))]
    verdict = judged({name: HEAD + text for name, text in zip(names, texts, strict=True)})
    assert verdict.merged is not None, [str(mistake) for mistake in verdict.mistakes]
    return verdict.merged


def resolved(
    *texts: str,
    variables: Variables = HERE,
    secrets: Mapping[str, bytes] | None = None,
) -> NodeSpec:
    """What valid documents ask of this node; `HEAD` is put before each."""
    names = ["cluster", *(f"group/g{n}" for n in range(1, len(texts)))]
    verdict = judged({name: HEAD + text for name, text in zip(names, texts, strict=True)})
    assert not verdict.mistakes, [str(mistake) for mistake in verdict.mistakes]
    return desired.resolve(verdict, variables, secrets or {}, 7, KINDS)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
