"""Fixtures that several folders of tests share; their conftest.py imports them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from servers import Etcd, EtcdServer, fresh_prefix


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keeps one event loop for all tests.

    grpc.aio has one poller a process: what it completes after the loop of a
    test is closed would turn up as an error in the next test.
    """
    yield  # noqa: PT022  (it has to live on until the last test)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A plain etcd for the whole run; BAI_TEST_ETCD=host:port names one that is there already."""
    given = os.environ.get("BAI_TEST_ETCD")
    if given:
        yield Etcd(given)
        return
    with EtcdServer(tmp_path_factory.mktemp("etcd") / "m0") as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()
