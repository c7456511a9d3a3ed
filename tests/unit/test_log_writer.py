"""The writer of logs on real descriptors: whatever stderr is, nobody waits for it."""

from __future__ import annotations

import os
from pathlib import Path

from bai_nodeagent import log_writer
from bai_nodeagent.log_writer import LogWriter


def loss(lines: int) -> str:
    return f"lost {lines}"


def test_lines_come_out_in_order(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno(), loss)
        for number in range(100):
            writer.write(f"line {number}")
        writer.flush(30)
    assert (tmp_path / "log").read_text().splitlines() == [f"line {n}" for n in range(100)]


def test_a_pipe_that_nobody_reads_delays_nobody_and_the_loss_is_reported_later() -> None:
    reader, end = os.pipe()
    writer = LogWriter(end, loss)
    count = 2 * log_writer.WAITING_AT_MOST
    for number in range(count):
        writer.write(f"{number:0100}")
    writer.flush(0.1)  # gives up
    with os.fdopen(reader, "rb") as lines:
        found = [lines.readline().decode().strip() for _ in range(log_writer.WAITING_AT_MOST)]
    text = [int(line.split()[1]) for line in found if line.startswith("lost")]
    written = [int(line) for line in found if not line.startswith("lost")]
    assert written == list(range(len(written)))
    # What had gone into the pipe before makes room for as many more.
    assert count // 4 < sum(text) <= count // 2
    os.close(end)


def test_a_full_disk_and_a_reader_that_is_gone_end_nothing() -> None:
    for fd in (os.open("/dev/full", os.O_WRONLY), _without_reader()):
        writer = LogWriter(fd, loss)
        writer.write("one")
        writer.flush(30)
        writer.write("two \udcff \ud800")
        writer.flush(30)
        os.close(fd)


def _without_reader() -> int:
    reader, end = os.pipe()
    os.close(reader)
    return end
