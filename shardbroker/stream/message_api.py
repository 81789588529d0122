"""$JS.API.STREAM.MSG.*: one message by the slow way, whose answers are JSON.

Source: jetstream_api.go jsMsgGetRequest, jsMsgDeleteRequest.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from shardbroker.store.handle import Message
from shardbroker.stream.api import Request, serve
from shardbroker.stream.direct import REQUEST as GET
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.gojson import BOOL, UINT64, Struct, format_time
from shardbroker.stream.model import unix_ns
from shardbroker.stream.stream import Stream, filtered

DELETE: Final = Struct("JSApiMsgDeleteRequest", {"seq": UINT64, "no_erase": BOOL})


@serve("STREAM.MSG.GET", "stream_msg_get_response")
def get(request: Request) -> None:
    request.need_payload()
    asked = request.decode(GET)
    if asked.get("batch", 0) > 0 or asked.get("max_bytes", 0) > 0:
        raise ApiError(Code.BAD_REQUEST)
    seq, start = asked.get("seq", 0), asked.get("start_time")
    last, following = asked.get("last_by_subj", ""), asked.get("next_by_subj", "")
    if (
        (seq and last)
        or (not seq and not last and not following and start is None)
        or (seq and start is not None)
        or (start is not None and last)
        or (last and following)
    ):
        raise ApiError(Code.BAD_REQUEST)
    stream = request.stream
    if start is not None:
        seq = stream.log.seq_at(unix_ns(start))
    message = _find(stream, seq, last, following)
    if message is None:
        raise ApiError(Code.NO_MESSAGE_FOUND)
    shown: dict[str, Any] = {"subject": message.subject.decode(errors="replace"), "seq": message.seq}
    if message.headers and not asked.get("no_hdr"):
        shown["hdrs"] = base64.b64encode(message.headers).decode()
    if message.payload:
        shown["data"] = base64.b64encode(message.payload).decode()
    shown["time"] = format_time(message.time_ns)
    request.respond({"message": shown}, audit=False)


def _find(stream: Stream, seq: int, last: str, following: str) -> Message | None:
    if following:
        with filtered(stream.log, following.encode()) as only:
            return stream.log.next(max(seq, 1), only)
    if seq:
        return stream.log.get(seq)
    found = stream.last_seq_of(last.encode())
    return stream.log.get(found) if found else None


@serve("STREAM.MSG.DELETE", "stream_msg_delete_response")
async def delete(request: Request) -> None:
    request.need_payload()
    asked = request.decode(DELETE)
    stream = request.stream
    if stream.config.sealed:
        raise ApiError(Code.STREAM_SEALED)
    if stream.config.deny_delete:
        raise ApiError(Code.STREAM_MSG_DELETE_FAILED, err="message delete not permitted")
    seq = asked.get("seq", 0)
    # The words of nats-server's stores for what is outside of them; that on disk has more of them.
    on_disk = stream.config.storage == "file"
    if seq == 0 or (on_disk and seq < stream.log.first_seq):
        raise ApiError(Code.STREAM_MSG_DELETE_FAILED, err="no message found")
    if on_disk and seq > stream.log.last_seq:
        raise ApiError(Code.STREAM_MSG_DELETE_FAILED, err="stream store EOF")
    if not stream.remove(seq, erase=not asked.get("no_erase", False)):
        raise ApiError(Code.SEQUENCE_NOT_FOUND, seq=seq)
    await stream.durable()
    request.respond({"success": True})
