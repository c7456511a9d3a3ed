"""The adapter on a real systemd."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from jeepney import DBusAddress, HeaderFields, new_signal

from bai_nodeagent.errors import Refused, Unavailable
from bai_nodeagent.system import dbus
from bai_nodeagent.system.systemd import Systemd, UnitState
from systemd_container import Container, container

__all__ = ["container"]  # a fixture: used by name

pytestmark = [pytest.mark.root, pytest.mark.anyio]

SLEEP = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n"


@pytest.fixture
def systemd(container: Container) -> Systemd:
    return container.systemd()


async def until(systemd: Systemd, name: str, **wanted: object) -> UnitState:
    """The unit's state as soon as it has these values."""
    with anyio.fail_after(15):
        while True:
            unit = await systemd.unit(name)
            if all(getattr(unit, field) == value for field, value in wanted.items()):
                return unit
            await anyio.sleep(0.02)


async def test_start_restart_stop(container: Container, systemd: Systemd) -> None:
    name = container.add_unit("plain.service", SLEEP)
    unit = await systemd.unit(name)
    assert (unit.load_state, unit.active_state, unit.main_pid) == ("loaded", "inactive", 0)

    await systemd.start(name)
    first = await systemd.unit(name)
    assert (first.active_state, first.sub_state) == ("active", "running")
    assert container.run("cat", f"/proc/{first.main_pid}/comm").strip() == "sleep"
    assert first.exec_start == (("/bin/sleep", "infinity"),)

    await systemd.start(name)  # again: nothing happens
    assert await systemd.unit(name) == first

    await systemd.restart(name)
    second = await systemd.unit(name)
    assert len(second.invocation_id) == 32
    assert second.invocation_id != first.invocation_id

    await systemd.stop(name)
    assert (await systemd.unit(name)).active_state == "inactive"
    await systemd.stop(name)
    await systemd.reset_failed(name)  # unloaded by now, which is no fault


async def test_a_unit_that_is_not_there(systemd: Systemd) -> None:
    unit = await systemd.unit("nowhere.service")
    assert (unit.load_state, unit.active_state) == ("not-found", "inactive")
    assert await systemd.last_lines(unit, 5) == ""
    with pytest.raises(Refused, match=r"nowhere\.service not found") as refused:
        await systemd.start("nowhere.service")
    assert refused.value.reason == "NoSuchUnit"


async def test_a_name_that_is_none(systemd: Systemd) -> None:
    with pytest.raises(Refused, match="not valid"):
        await systemd.unit("no unit")


async def test_other_kinds_of_unit_have_a_state_too(systemd: Systemd) -> None:
    unit = await systemd.unit("multi-user.target")
    assert (unit.active_state, unit.main_pid, unit.result) == ("active", 0, "")


async def test_a_masked_unit_is_refused_in_systemds_words(
    container: Container, systemd: Systemd
) -> None:
    container.write("/etc/systemd/system/masked.service", SLEEP)
    name = "masked.service"
    (container.root / "etc/systemd/system" / name).unlink()
    container.run("systemctl", "mask", name)
    assert (await systemd.unit(name)).load_state == "masked"
    with pytest.raises(Refused, match="is masked") as refused:
        await systemd.start(name)
    assert refused.value.reason == "UnitMasked"


async def test_a_failed_start_is_reported_with_its_last_lines(
    container: Container, systemd: Systemd
) -> None:
    name = container.add_unit(
        "broken.service",
        "[Service]\nType=oneshot\n"
        'ExecStart=/bin/sh -c "for i in 1 2 3 4; do echo line $i; done; exit 3"\n',
    )
    with pytest.raises(
        Refused, match=r"unit is failed \(failed\), its result exit-code"
    ) as refused:
        await systemd.start(name)
    assert refused.value.reason == "JobFailed"
    assert await systemd.last_lines(await systemd.unit(name), 2) == "line 3\nline 4"


async def test_last_lines_are_of_the_observed_invocation_alone(
    container: Container, systemd: Systemd
) -> None:
    name = container.add_unit(
        "twice.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/sh -c 'echo $$INVOCATION_ID'\n",
    )
    await systemd.start(name)
    first = await systemd.unit(name)
    await systemd.restart(name)
    unit = await systemd.unit(name)
    assert await systemd.last_lines(unit, 100) == unit.invocation_id
    # Of a run that systemd has ended and begun anew since it was observed, no line of the new one.
    assert await systemd.last_lines(first, 100) == first.invocation_id


async def test_last_lines_of_one_that_is_over_are_whole(
    container: Container, systemd: Systemd
) -> None:
    name = container.add_unit(
        "wordy.service",
        "[Service]\nType=oneshot\n"
        'ExecStart=/bin/sh -c "for i in `seq 2000`; do echo line $$i; done; exit 3"\n',
    )
    for _ in range(5):
        with pytest.raises(Refused):
            await systemd.start(name)
        assert (await systemd.last_lines(await systemd.unit(name), 3)).endswith("line 2000")


async def test_a_unit_stopped_while_it_starts(container: Container, systemd: Systemd) -> None:
    name = container.add_unit(
        "slow.service", "[Service]\nType=notify\nExecStart=/bin/sleep infinity\n"
    )
    refusals: list[str] = []

    async def start() -> None:
        try:
            await systemd.start(name)
        except Refused as refused:
            refusals.append(refused.reason)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        await until(systemd, name, active_state="activating")
        await systemd.stop(name)
    assert refusals == ["JobCanceled"]


async def test_restarts_by_systemd_are_counted(container: Container, systemd: Systemd) -> None:
    name = container.add_unit(
        "phoenix.service", f"{SLEEP}Restart=always\nRestartSec=200ms\nKillSignal=SIGKILL\n"
    )
    await systemd.start(name)
    first = await systemd.unit(name)
    container.run("kill", "-KILL", str(first.main_pid))
    await until(systemd, name, sub_state="auto-restart", result="signal", main_pid=0)
    second = await until(systemd, name, sub_state="running")
    assert (first.n_restarts, second.n_restarts) == (0, 1)
    await systemd.stop(name)


async def test_a_start_limit_holds_until_it_is_reset(
    container: Container, systemd: Systemd
) -> None:
    name = container.add_unit(
        "loop.service",
        "[Unit]\nStartLimitIntervalSec=100\nStartLimitBurst=2\n"
        "[Service]\nExecStart=/bin/sh -c 'exit $(cat /run/loop-exit)'\nRestart=on-failure\n",
    )
    container.write("/run/loop-exit", "1")
    await systemd.start(name)
    await until(systemd, name, active_state="failed")
    # The result stays that of the last run; only systemd's log names the limit.
    with pytest.raises(Refused, match="failed; the unit is failed"):
        await systemd.start(name)
    container.write("/run/loop-exit", "0")
    await systemd.reset_failed(name)
    assert (await systemd.unit(name)).active_state == "inactive"
    await systemd.start(name)


@pytest.fixture
async def gated(container: Container, systemd: Systemd) -> AsyncIterator[str]:
    name = container.add_unit(
        "gated.service",
        f"{SLEEP}ExecCondition=/bin/sh -c 'test -e /run/open || {{ echo no share; exit 1; }}'\n",
    )
    yield name
    await systemd.stop(name)


async def test_a_closed_gate_is_a_refusal_and_its_reason_can_be_read(
    container: Container, systemd: Systemd, gated: str
) -> None:
    unit = await systemd.unit(gated)
    assert unit.exec_conditions == (
        ("/bin/sh", "-c", "test -e /run/open || { echo no share; exit 1; }"),
    )
    # A watch keeps the unit's last invocation known: nothing else wants the unit.
    async with contextlib.aclosing(systemd.changes(gated)) as changes:
        await anext(changes)
        with pytest.raises(Refused, match=r"keeps it from starting: no share") as no:
            await systemd.start(gated)
        assert no.value.reason == "GateClosed"
        assert (await systemd.unit(gated)).result == "exec-condition"
        assert await systemd.last_lines(await systemd.unit(gated), 5) == "no share"
    (container.root / "run/open").touch()
    await systemd.start(gated)
    assert (await systemd.unit(gated)).active_state == "active"


async def test_a_death_is_reported_by_an_event(container: Container, systemd: Systemd) -> None:
    name = container.add_unit("mortal.service", SLEEP)
    await systemd.start(name)
    unit = await systemd.unit(name)
    async with contextlib.aclosing(systemd.changes(name)) as changes:
        await anext(changes)
        container.run("kill", "-KILL", str(unit.main_pid))
        with anyio.fail_after(10):
            while (await systemd.unit(name)).active_state == "active":
                await anext(changes)


async def test_a_watch_observes_a_unit_that_appears_and_only_then(
    container: Container, systemd: Systemd
) -> None:
    async with contextlib.aclosing(systemd.changes("late.service")) as changes:
        await anext(changes)
        wake_ups: list[None] = []

        async def count() -> None:
            async for change in changes:
                wake_ups.append(change)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            # A look must not cause the next look, though it loads the unit.
            for _ in range(5):
                await systemd.unit("late.service")
            await anyio.sleep(0.1)
            assert wake_ups == []
            container.add_unit("late.service", SLEEP)
            with anyio.fail_after(5):
                while not wake_ups:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def test_a_restart_of_dbus_ends_the_watch_and_nothing_else(
    container: Container, systemd: Systemd
) -> None:
    changes = systemd.changes("dbus.service")
    await anext(changes)
    bus = await systemd.unit("dbus.service")
    container.run("kill", "-KILL", str(bus.main_pid))
    with pytest.raises(Unavailable, match="closed the connection"):
        await drain(changes)
    await answers_again(systemd, "dbus.service")
    assert (await systemd.unit("dbus.service")).main_pid != bus.main_pid


async def test_a_reexecuted_systemd_ends_the_watch_and_nothing_else(
    container: Container, systemd: Systemd
) -> None:
    changes = systemd.changes("dbus.service")
    await anext(changes)
    container.run("systemctl", "daemon-reexec")
    with pytest.raises(Unavailable, match="left the bus"):
        await drain(changes)
    await answers_again(systemd, "dbus.service")


async def test_signals_that_others_send_are_none(container: Container, systemd: Systemd) -> None:
    """Any account of a bus may send any signal to any connection."""
    bus = container.root / "run/dbus/system_bus_socket"
    changes = systemd.changes("dbus.service")
    await anext(changes)
    async with dbus.connect(bus, "org.freedesktop.DBus", "a stranger") as stranger:
        path = ("/org/freedesktop/DBus", "org.freedesktop.DBus")
        (names,) = await stranger.call(*path, "ListNames")
        for name in (each for each in names if each.startswith(":")):
            for interface, member, text in (
                ("org.freedesktop.DBus", "NameOwnerChanged", "forged"),
                ("org.freedesktop.DBus.Properties", "PropertiesChanged", "forged"),
                ("org.freedesktop.DBus.Properties", "PropertiesChanged", "x" * 20_000_000),
            ):
                message = new_signal(DBusAddress("/x", interface=interface), member, "s", (text,))
                message.header.fields[HeaderFields.destination] = name
                await stranger._stream.send(message.serialise(next(stranger._serials)))
        with anyio.move_on_after(3), pytest.raises(TimeoutError):
            await drain(changes)
        await answers_again(systemd, "dbus.service")


async def drain(changes: AsyncIterator[None]) -> None:
    with anyio.fail_after(5):
        async for _ in changes:
            pass


async def answers_again(systemd: Systemd, name: str) -> None:
    with anyio.fail_after(10):
        while True:
            with contextlib.suppress(Unavailable):
                await systemd.unit(name)
                return
            await anyio.sleep(0.02)


async def test_a_hung_systemd_costs_the_deadline(container: Container) -> None:
    systemd = container.systemd(deadline_s=0.3)
    os.kill(container.pid, signal.SIGSTOP)
    try:
        for call in (systemd.unit, systemd.start, systemd.reset_failed):
            with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
                await call("dbus.service")
    finally:
        os.kill(container.pid, signal.SIGCONT)
    assert (await container.systemd().unit("dbus.service")).active_state == "active"


async def test_no_bus_at_all(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no bus at"):
        await Systemd(tmp_path / "nothing").unit("dbus.service")
