"""What the cluster is called, and where it keeps its keys: no part of the node, so there is
nothing to keep in line."""

from __future__ import annotations

from ...model import Kind

KIND = Kind(
    section="backendai",
    schema={
        "type": "object",
        "properties": {
            "namespace": {"$ref": "#/$defs/name"},
            "etcd": {
                "type": "object",
                "properties": {
                    "endpoints": {
                        "title": 'a list such as ["http://10.20.30.1:2379"]',
                        "type": "array",
                        "items": {
                            "title": 'an endpoint such as "http://${manager-host}:2379"',
                            "type": "string",
                            "format": "http-endpoint",
                        },
                        "minItems": 1,
                    },
                },
                "additionalProperties": False,
            },
            "redis-addr": {"$ref": "#/$defs/reserved"},
        },
        "additionalProperties": False,
    },
    resources=lambda _node, _host: [],
)
