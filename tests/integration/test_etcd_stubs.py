"""The replaced stubs lean on python-etcd3's insides: every Python has to show that it works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
PYTHONS = [
    sys.executable,
    *os.environ.get("BAI_TEST_PYTHONS", "").split(),  # virtual environments with the packages
    *(path for minor in (11, 12, 13) if (path := shutil.which(f"python3.{minor}"))),
]
PACKAGES = """
import importlib.util, anyio, google.protobuf, grpc
assert importlib.util.find_spec("etcd3")
"""
USE = """
from google.protobuf import descriptor_pb2, descriptor_pool
# Another etcd library in this process, with the same names for other messages.
stranger = descriptor_pb2.FileDescriptorProto(name="rpc.proto", package="etcdserverpb")
stranger.message_type.add(name="WatchRequest")
descriptor_pool.Default().Add(stranger)

from bai_nodeagent.system import etcd
from etcd3 import etcdrpc

create = etcdrpc.WatchCreateRequest(key=b"k", start_revision=7, fragment=True, watch_id=3)
request = etcdrpc.WatchRequest(create_request=create)
assert etcdrpc.WatchRequest.FromString(request.SerializeToString()) == request
request.progress_request.SetInParent()
assert request.WhichOneof("request_union") == "progress_request"
assert request.SerializeToString() == b"\\x1a\\x00"
assert etcdrpc.Compare.MOD == 2 and etcdrpc.NOSPACE == 1
"""


@pytest.mark.parametrize("python", dict.fromkeys(PYTHONS))
def test_stubs_import_beside_other_etcd_libraries(python: str) -> None:
    if subprocess.run([python, "-c", PACKAGES], capture_output=True).returncode:
        pytest.skip(f"{python} lacks anyio, etcd3, grpcio or protobuf")
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([python, "-W", "error", "-c", USE], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
