"""What goes wrong with an etcd, done to real ones: nothing of it may be more than Unavailable."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from authority import Authority
from bai_nodeagent.errors import Unavailable
from bai_nodeagent.etcd_access import EtcdAccess
from bai_nodeagent.store import EtcdSettings
from bai_nodeagent.store.base import Snapshot
from bai_nodeagent.store.etcd import EtcdStore
from bai_nodeagent.system.etcd_watch import CALL_DEADLINE_S
from servers import Etcd, EtcdCluster, EtcdServer, Tls, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.etcd]

T = TypeVar("T")
PREFIX = "/bai-nodeagent"
ROOT = f"{PREFIX}/local/"
CLUSTER, NODE, SECRET = "desired/cluster", "desired/node/n1", "secret/cluster/s"
STATUS, ALIVE = "node/n1/status", "node/n1/alive"
N1 = [("read", ROOT + CLUSTER), ("read", ROOT + NODE), ("readwrite", f"{ROOT}node/n1/")]
LEASE_S = 2


@asynccontextmanager
async def connected(
    *endpoints: str, user: str | None = None, password: Path | None = None, tls: Tls | None = None
) -> AsyncIterator[EtcdStore]:
    trusted = (tls.ca, tls.cert, tls.key) if tls else (None, None, None)
    access = EtcdAccess(endpoints, user, password, *trusted)
    store = EtcdStore(EtcdSettings(access, "local", PREFIX), lease_s=LEASE_S)
    try:
        yield store
    finally:
        await store.close()


async def persistently(call: Callable[[], Awaitable[T]], limit_s: float = 20.0) -> T:
    """As the daemon does: asked again until it is to be had."""
    with anyio.fail_after(limit_s):
        while True:
            try:
                return await call()
            except Unavailable:
                await anyio.sleep(0.2)
    raise AssertionError


async def next_change(store: EtcdStore, keys: list[str], since: Snapshot) -> None:
    changes = store.changes(keys, since)
    try:
        with anyio.fail_after(20):
            await anext(changes)
    finally:
        await changes.aclose()


async def until_alive(store: EtcdStore, value: bytes | None) -> None:
    async def observe_once() -> bytes | None:
        entry = (await store.read([ALIVE])).entries.get(ALIVE)
        return entry.raw if entry else None

    with anyio.fail_after(20):
        while await persistently(observe_once) != value:
            await anyio.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One for all tests that leave it running, whatever else they do to it."""
    with EtcdServer(tmp_path_factory.mktemp("etcd") / "m0") as server:
        yield server


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("pw-n1\n")
    return file


# --- authentication and permissions


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("guarded") / "m0") as server:
        server.etcdctl("put", ROOT + CLUSTER, "1")
        server.turn_on_auth({"n1": N1})
        yield server


async def test_one_grant_a_key_is_enough_for_a_node(guarded: EtcdServer, password: Path) -> None:
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        snapshot = await store.read([CLUSTER, NODE])
        assert CLUSTER in snapshot.entries
        await store.put(STATUS, b"{}")
        async with store.presence(ALIVE, lambda: b"me", lambda *_: False):
            await until_alive(store, b"me")
            guarded.etcdctl("put", ROOT + NODE, "2", user="root:pw-root")
            await next_change(store, [CLUSTER, NODE], snapshot)


async def test_lost_tokens_are_renewed(guarded: EtcdServer, password: Path) -> None:
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        before = await store.read([CLUSTER])
        guarded.restart()
        assert (await persistently(lambda: store.read([CLUSTER]))).entries == before.entries
        guarded.etcdctl("put", ROOT + CLUSTER, "2", user="root:pw-root")
        await next_change(store, [CLUSTER], before)


async def test_stale_token_is_renewed_within_a_call_and_a_watch(
    guarded: EtcdServer, password: Path
) -> None:
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        before = await store.read([CLUSTER])
        forget_tokens(guarded)
        await store.read([CLUSTER])
        guarded.etcdctl("put", ROOT + CLUSTER, "2", user="root:pw-root")
        forget_tokens(guarded)
        await next_change(store, [CLUSTER], before)


def forget_tokens(server: EtcdServer) -> None:
    """Turning authentication off and on drops every token and keeps the connections."""
    server.etcdctl("auth", "disable", user="root:pw-root")
    server.etcdctl("auth", "enable")


async def test_running_watch_outlives_a_change_of_roles(
    guarded: EtcdServer, password: Path
) -> None:
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        changes = store.changes([CLUSTER], await store.read([CLUSTER]))
        for value in ("2", "3"):
            guarded.etcdctl("put", ROOT + CLUSTER, value, user="root:pw-root")
            with anyio.fail_after(20):
                await anext(changes)
            guarded.etcdctl("role", "add", f"another-{value}", user="root:pw-root")
            await store.read([CLUSTER])
        await changes.aclose()


async def test_denied_key_is_named(guarded: EtcdServer, password: Path) -> None:
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        names_it = ROOT + SECRET
        with pytest.raises(Unavailable, match=names_it):
            await store.read([CLUSTER, SECRET])
        with pytest.raises(Unavailable, match=names_it):
            await next_change(store, [CLUSTER, SECRET, NODE], await store.read([CLUSTER]))
        with pytest.raises(Unavailable, match=ROOT + CLUSTER):
            await store.put(CLUSTER, b"x")
        with pytest.raises(Unavailable, match=f"{ROOT}node/"):
            await store.list("node/")
        assert (await store.read([CLUSTER])).entries


async def test_wrong_password_is_reported_but_not_shown(
    guarded: EtcdServer, tmp_path: Path
) -> None:
    password = tmp_path / "wrong"
    password.write_text("open sesame")
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        with pytest.raises(Unavailable, match=f"authenticate as n1 with {password}") as caught:
            await store.read([CLUSTER])
        assert "open sesame" not in repr(caught.value)
        password.write_text("pw-n1")
        await store.read([CLUSTER])


async def test_missing_password_file_is_named(guarded: EtcdServer, tmp_path: Path) -> None:
    async with connected(guarded.endpoint, user="n1", password=tmp_path / "none") as store:
        with pytest.raises(Unavailable, match=f"{tmp_path / 'none'}"):
            await store.read([CLUSTER])


async def test_authentication_may_be_off_for_a_while(guarded: EtcdServer, password: Path) -> None:
    guarded.etcdctl("auth", "disable", user="root:pw-root")
    async with connected(guarded.endpoint, user="n1", password=password) as store:
        assert (await store.read([CLUSTER])).entries
        guarded.etcdctl("auth", "enable")
        assert (await store.read([CLUSTER])).entries


async def test_unreachable_member_does_not_keep_from_authenticating(
    guarded: EtcdServer, password: Path
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with connected(dead, guarded.endpoint, user="n1", password=password) as store:
        assert (await store.read([CLUSTER])).entries


# --- one member


async def test_compacted_watch_ends_and_the_next_one_holds(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        start = await store.read([CLUSTER])
        for value in (b"1", b"2", b"3"):
            last = await store.put(CLUSTER, value)
        server.etcdctl("compact", f"{last}")
        with pytest.raises(Unavailable, match="compacted"):
            await next_change(store, [CLUSTER], start)
        now = await store.read([CLUSTER])
        await store.put(CLUSTER, b"4")
        await next_change(store, [CLUSTER], now)


async def test_lost_lease_is_granted_again(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        async with store.presence(ALIVE, lambda: b"me", lambda *_: False):
            await until_alive(store, b"me")
            for lease in server.etcdctl("lease", "list").splitlines()[1:]:
                server.etcdctl("lease", "revoke", lease)
            await until_alive(store, b"me")
        assert (await store.read([ALIVE])).entries == {}


async def test_key_of_a_dead_holder_goes_with_its_lease(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        lease = server.etcdctl("lease", "grant", "1").split()[1]
        server.etcdctl("put", f"--lease={lease}", ROOT + ALIVE, "dead")
        async with store.presence(ALIVE, lambda: b"me", lambda *_: False) as presence:
            await until_alive(store, b"me")
            assert presence.rival is None


async def test_value_of_one_and_a_half_megabytes(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        start = await store.read([CLUSTER])
        value = b"x" * 1_500_000
        await store.put(CLUSTER, value)
        await next_change(store, [CLUSTER], start)
        assert (await store.read([CLUSTER])).entries[CLUSTER].raw == value
        with pytest.raises(Unavailable, match="too large"):
            await store.put(CLUSTER, b"x" * 1_600_000)


async def test_full_etcd_still_reads(tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "m0", options=["--quota-backend-bytes=2000000"]) as server:
        async with connected(server.endpoint) as store:
            await store.put(CLUSTER, b"1")

            async def fill() -> None:
                # etcd goes by the size of its file at the last commit, ten a second: how
                # many writes it still takes depends on their speed.
                for n in range(500):
                    await store.put(f"desired/group/g{n % 20}", b"x" * 500_000)

            with pytest.raises(Unavailable, match="space exceeded"):
                await fill()
            assert (await store.read([CLUSTER])).entries


async def test_restored_backup_is_another_epoch(server: EtcdServer, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with connected(server.endpoint) as store:
        await store.put(CLUSTER, b"old")
        server.etcdctl("snapshot", "save", str(backup))
        for _ in range(5):
            await store.put(CLUSTER, b"new")
        before = await store.read([CLUSTER])
        server.stop()
        server.wipe(backup)
        server.start()
        after = await persistently(lambda: store.read([CLUSTER]))
        assert after.entries[CLUSTER].raw == b"old"
        assert after.revision < before.revision
        assert after.epoch != before.epoch


async def test_outage_of_ten_seconds(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        await store.put(CLUSTER, b"1")
        start = await store.read([CLUSTER])
        async with store.presence(ALIVE, lambda: b"me", lambda *_: False):
            await until_alive(store, b"me")
            server.kill()
            threads = threading.active_count()
            with anyio.move_on_after(10):
                while True:
                    with pytest.raises(Unavailable, match=server.endpoint):
                        await store.read([CLUSTER])
                    await anyio.sleep(0.1)
            assert threading.active_count() <= threads + 1
            server.start()
            await until_alive(store, b"me")
            await store.put(CLUSTER, b"2")
            await persistently(lambda: next_change(store, [CLUSTER], start))


async def test_silent_endpoint_is_given_up(server: EtcdServer) -> None:
    """It accepts connections and never says a word, as behind a broken balancer."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"127.0.0.1:{mute.getsockname()[1]}"
        async with connected(endpoint) as store:
            with anyio.fail_after(CALL_DEADLINE_S + 2), pytest.raises(Unavailable, match=endpoint):
                await store.read([CLUSTER])
        async with connected(endpoint, server.endpoint) as store:
            await store.read([CLUSTER])


async def test_cancelled_call_ends_its_own_scope_alone(server: EtcdServer) -> None:
    """grpc.aio answers a cancellation with another one, which must not get further."""
    async with connected(server.endpoint) as store:
        start = await store.read([CLUSTER])
        server.freeze()
        for call in (
            lambda: store.read([CLUSTER]),
            lambda: store.put(CLUSTER, b"1"),
            lambda: anext(store.changes([CLUSTER], start)),
        ):
            with anyio.move_on_after(0.2) as scope:
                await call()
            assert scope.cancelled_caught
        server.thaw()
        await persistently(lambda: store.read([CLUSTER]))


# --- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def test_frozen_member_is_left_for_the_next(cluster: EtcdCluster) -> None:
    first, second, _ = cluster.members
    async with connected(*cluster.endpoints) as store:
        start = await store.read([CLUSTER])
        changes = store.changes([CLUSTER], start)
        first.freeze()
        try:
            # Its keepalive ends the watch: no answer would come else, and no error.
            with anyio.fail_after(40), pytest.raises(Unavailable, match=first.endpoint):
                await anext(changes)
            await persistently(lambda: store.read([CLUSTER]))
            second.etcdctl("put", ROOT + CLUSTER, "while frozen")
            await persistently(lambda: next_change(store, [CLUSTER], start))
        finally:
            first.thaw()


async def test_one_call_outlives_a_frozen_member(cluster: EtcdCluster) -> None:
    async with connected(*cluster.endpoints) as store:
        await store.read([CLUSTER])
        cluster.members[0].freeze()
        try:
            await persistently(lambda: store.put(CLUSTER, b"1"))
        finally:
            cluster.members[0].thaw()


async def test_killed_member_is_left_within_one_call(cluster: EtcdCluster) -> None:
    async with connected(*cluster.endpoints) as store:
        await store.put(CLUSTER, b"1")
        cluster.members[0].kill()
        try:
            await persistently(lambda: store.put(CLUSTER, b"2"))
        finally:
            cluster.members[0].start()


async def test_lost_majority_is_unavailable_until_it_is_back(cluster: EtcdCluster) -> None:
    async with connected(*cluster.endpoints) as store:
        await store.put(CLUSTER, b"1")
        for member in cluster.members[:2]:
            member.kill()
        with pytest.raises(Unavailable):
            await store.read([CLUSTER])
        for member in cluster.members[:2]:
            member.launch()
        assert (await persistently(lambda: store.read([CLUSTER]))).entries[CLUSTER].raw == b"1"
        for member in cluster.members:
            member.wait_ready()


# --- TLS


async def test_tls_trusts_its_authority_alone(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with EtcdServer(tmp_path / "m0", tls=ours.issue("server")) as server:
        trusting = EtcdAccess((server.endpoint,), ca=tmp_path / "ours" / "ca.pem")
        store = EtcdStore(EtcdSettings(trusting, "local"))
        await store.put(CLUSTER, b"1")
        await store.close()
        async with connected(server.endpoint, tls=theirs.issue("other")) as stranger:
            with pytest.raises(Unavailable, match=server.endpoint):
                await stranger.read([CLUSTER])


async def test_mutual_tls_with_roles_and_a_renewed_certificate(
    tmp_path: Path, password: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    admin, client = authority.issue("root"), authority.issue("client")
    with EtcdServer(tmp_path / "m0", tls=authority.issue("server"), client_tls=admin) as server:
        server.etcdctl("put", ROOT + CLUSTER, "1")
        server.turn_on_auth({"n1": N1})
        async with connected(server.endpoint, user="n1", password=password, tls=client) as store:
            before = await store.read([CLUSTER])
            assert before.entries
            client.cert.write_text("half a certif")
            with pytest.raises(Unavailable, match=server.endpoint):
                await store.read([CLUSTER])
            authority.issue("client")
            assert (await store.read([CLUSTER])).entries == before.entries


async def test_certificate_alone_may_name_the_user(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    admin, node = authority.issue("root"), authority.issue("n1")
    with EtcdServer(tmp_path / "m0", tls=authority.issue("server"), client_tls=admin) as server:
        server.etcdctl("put", ROOT + CLUSTER, "1")
        server.turn_on_auth({"n1": N1})
        async with connected(server.endpoint, tls=node) as store:
            start = await store.read([CLUSTER])
            with pytest.raises(Unavailable, match=ROOT + SECRET):
                await store.read([SECRET])
            server.etcdctl("put", ROOT + CLUSTER, "2")
            await next_change(store, [CLUSTER], start)


async def test_unreadable_certificate_is_named(tmp_path: Path, server: Etcd) -> None:
    missing = Tls(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    async with connected(server.endpoint, tls=missing) as store:
        with pytest.raises(Unavailable, match="No such file"):
            await store.read([CLUSTER])
