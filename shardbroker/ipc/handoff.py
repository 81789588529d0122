"""Descriptors over Unix sockets (SCM_RIGHTS): the two calls that `channel` is built on.

A descriptor in flight belongs to the kernel: after `send_packet` the sender closes its own copy, and whoever
receives the packet gets a new one. What a receiver has no room for (RLIMIT_NOFILE) the kernel drops from the end
of the list, which is why `receive_packet` may give fewer descriptors than the packet speaks of.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence

# The kernel's own bound for one message (SCM_MAX_FD, include/net/scm.h).
DESCRIPTORS_MAX = 253
_ITEM_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * _ITEM_BYTES)


def send_packet(sock: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one packet of a SOCK_SEQPACKET socket; raises BlockingIOError when the peer's queue is full."""
    if descriptors:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        sock.sendmsg([data], [rights])
    else:
        sock.send(data)


def receive_packet(sock: socket.socket, bytes_max: int) -> tuple[bytes, list[int]]:
    """Receive one packet; (b"", []) at the end. The descriptors are close-on-exec."""
    data, ancillary, _, _ = sock.recvmsg(bytes_max, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % _ITEM_BYTES])
    return data, descriptors.tolist()
