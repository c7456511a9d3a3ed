"""What `[agent]` of a document may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .environment import spec as install

SECTION = "agent"
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "state": {"enum": ["running", "stopped"]},
        "supervisor": {"enum": ["child", "systemd"]},
        "adopt": {"enum": ["restart", "as-is"]},
        "health": {"enum": ["auto", "process", "backendai"]},
        "unit": {
            "title": 'the name of a service, such as "backendai-agent.service"',
            "type": "string",
            "pattern": r"^[A-Za-z0-9:_.\\@-]+\.service$",
        },
        "command": {
            "title": "a program by its absolute path, and its arguments",
            "type": "array",
            "prefixItems": [{"$ref": "#/$defs/path"}],
            "items": {"$ref": "#/$defs/text"},
            "minItems": 1,
        },
        "workdir": {"$ref": "#/$defs/path"},
        "user": {
            "title": "the name of an account on the node",
            "type": "string",
            "pattern": r"^[A-Za-z_][A-Za-z0-9_.-]*$",
        },
        "env": {
            "type": "object",
            "patternProperties": {
                "^[A-Za-z_][A-Za-z0-9_]*$": {"$ref": "#/$defs/text-or-secret"},
            },
            "additionalProperties": False,
        },
        "stop-timeout": {"$ref": "#/$defs/duration"},
        "restart": {"enum": ["auto", "idle", "manual"]},
        "health-timeout": {"$ref": "#/$defs/duration"},
        "on-unhealthy": {"enum": ["hold", "rollback"]},
        "allow-session-loss": {
            "title": 'the digest "sha256:…" that `plan` prints for the change',
            "type": "string",
            "pattern": "^sha256:[0-9a-f]{64}$",
        },
        "install": install.SCHEMA,
        "source": {"$ref": "#/$defs/reserved"},
    },
    "required": ["supervisor"],
    "if": {"properties": {"supervisor": {"const": "child"}}, "required": ["supervisor"]},
    "then": {"required": ["command"]},
    # Packages are never installed as root, which is who the daemon is by default.
    "dependentRequired": {"install": ["user"]},
    "additionalProperties": False,
}
