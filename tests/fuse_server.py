"""A file system that stops answering when told: a dead server without a server.

It speaks just enough of FUSE for an empty folder. What waits for it sits in
state D, and not even SIGKILL ends that: harsher than NFS. Source: linux/fuse.h.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import select
import stat
import struct
import threading
from pathlib import Path


class Op(enum.IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    STATFS = 17
    RELEASE = 18
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36


_READ_ONLY = 1  # mount(2), MS_RDONLY
_HEAD = struct.Struct("<IIQQIIIHH")  # fuse_in_header
_REPLY = struct.Struct("<IiQ")  # fuse_out_header


class FuseServer:
    """Mounted read-only at `target` as "frozen:/", by a thread of ours, until `close`."""

    def __init__(self, target: Path) -> None:
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"frozen:/", os.fsencode(target), b"fuse", _READ_ONLY, options.encode()):
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), "mount")
        self._unanswered: list[bytes] = []
        self._is_frozen = False
        self._end, self._told = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def freeze(self) -> None:
        self._is_frozen = True

    def thaw(self) -> None:
        self._is_frozen = False
        held, self._unanswered = self._unanswered, []
        for request in held:
            self._answer(request)

    def close(self) -> None:
        """Also ends what waits: the kernel gives it ENOTCONN."""
        os.write(self._told, b"x")
        self._thread.join()
        for fd in (self._fd, self._end, self._told):
            os.close(fd)

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select([self._fd, self._end], [], [])
            if self._end in readable:
                return
            try:
                request = os.read(self._fd, 1 << 20)
            except OSError:
                return  # unmounted
            if self._is_frozen:
                self._unanswered.append(request)
            else:
                self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, opcode, unique, *_ = _HEAD.unpack_from(request)
        if opcode in (Op.FORGET, Op.INTERRUPT):
            return
        error, body = _body(opcode)
        os.write(self._fd, _REPLY.pack(_REPLY.size + len(body), -error, unique) + body)


def _body(opcode: int) -> tuple[int, bytes]:
    match opcode:
        case Op.INIT:
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 9, 65536, 1, 16, 0, 0)
        case Op.GETATTR:
            mode = stat.S_IFDIR | 0o755
            attributes = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)
            return 0, struct.pack("<QII", 0, 0, 0) + attributes
        case Op.STATFS:
            return 0, struct.pack("<5Q10I", 9, 9, 9, 9, 9, 4096, 255, 4096, *([0] * 7))
        case Op.OPENDIR:
            return 0, struct.pack("<QII", 1, 0, 0)
        case Op.RELEASE | Op.READDIR | Op.RELEASEDIR:
            return 0, b""
        case Op.LOOKUP:
            return errno.ENOENT, b""
        case _:
            return errno.ENOSYS, b""
