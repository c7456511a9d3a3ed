"""etcd's messages and stubs for python-etcd3, in place of its generated ones.

The `_pb2` files that etcd3 0.12.0 ships are refused by every protobuf from 4
on. The descriptors in them are sound, so they are read as data, from the
installed package, and turned into classes by the protobuf that is there.
Importing this module puts the result at `etcd3.etcdrpc`; it has to come before
the first `import etcd3`.

The descriptor pool is private: another etcd library in the process registers
the same names in the default pool, and one of the two would fail.
"""

from __future__ import annotations

import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILES = ("kv_pb2.py", "auth_pb2.py", "rpc_pb2.py")  # in the order of their imports
_SERIALIZED = re.compile(r"serialized_pb=_b\(('(?:[^'\\]|\\.)*')\)")
_Field = descriptor_pb2.FieldDescriptorProto


def read_descriptor(source: str) -> descriptor_pb2.FileDescriptorProto:
    """The file descriptor that a generated `_pb2` module of protobuf 3 carries as a literal.

    Raises ValueError where there is none.
    """
    found = _SERIALIZED.search(source)
    if found is None:
        raise ValueError("no serialized_pb: these are not the stubs of etcd3 0.12.0")
    literal: str = ast.literal_eval(found[1])
    return descriptor_pb2.FileDescriptorProto.FromString(literal.encode("latin1"))


def add_newer_fields(rpc: descriptor_pb2.FileDescriptorProto) -> None:
    """Adds what etcd 3.4 knows of watches and etcd3 0.12.0 does not: api/etcdserverpb/rpc.proto."""
    message = {m.name: m for m in rpc.message_type}
    create, request = message["WatchCreateRequest"], message["WatchRequest"]
    optional = _Field.LABEL_OPTIONAL
    create.field.add(name="watch_id", number=7, type=_Field.TYPE_INT64, label=optional)
    create.field.add(name="fragment", number=8, type=_Field.TYPE_BOOL, label=optional)
    message["WatchResponse"].field.add(
        name="fragment", number=7, type=_Field.TYPE_BOOL, label=optional
    )
    rpc.message_type.add(name="WatchProgressRequest")
    request.field.add(
        name="progress_request",
        number=3,
        type=_Field.TYPE_MESSAGE,
        type_name=".etcdserverpb.WatchProgressRequest",
        label=optional,
        oneof_index=0,
    )


def _stub(
    service: descriptor_pb2.ServiceDescriptorProto, package: str, module: ModuleType
) -> type[Any]:
    """A class as grpc's generator makes it: called with a channel, one attribute a method."""

    def __init__(self: Any, channel: Any) -> None:  # noqa: N807
        for method in service.method:
            shape = (
                f"{'stream' if method.client_streaming else 'unary'}_"
                f"{'stream' if method.server_streaming else 'unary'}"
            )
            request, response = (
                getattr(module, name.rpartition(".")[2])
                for name in (method.input_type, method.output_type)
            )
            call = getattr(channel, shape)(
                f"/{package}.{service.name}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, method.name, call)

    return type(f"{service.name}Stub", (), {"__init__": __init__})


def build() -> ModuleType:
    """The module `etcd3.etcdrpc`: messages, values of top-level enums, a stub a service."""
    spec = find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("python-etcd3 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "etcdrpc"
    files = [read_descriptor((folder / name).read_text(encoding="utf-8")) for name in _FILES]
    add_newer_fields(files[-1])

    pool = descriptor_pool.DescriptorPool()
    module = ModuleType("etcd3.etcdrpc", __doc__)
    for file in files:
        pool.Add(file)
        for message in file.message_type:
            descriptor = pool.FindMessageTypeByName(f"{file.package}.{message.name}")
            setattr(module, message.name, message_factory.GetMessageClass(descriptor))
        for enum in file.enum_type:
            for value in enum.value:
                setattr(module, value.name, value.number)
        for service in file.service:
            setattr(module, f"{service.name}Stub", _stub(service, file.package, module))
    return module


sys.modules.setdefault("etcd3.etcdrpc", build())
