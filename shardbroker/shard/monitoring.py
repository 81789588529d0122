"""A shard's answers to monitoring, each in a fraction of a millisecond: whoever asks comes back for more.

    op             query                       answer
    table          first, most, acc, user,     numbers of the connections in so many slots (report.TABLE_ROW, base64), and the
                   starts                      slot to go on with (`next`, -1: none)
    rows           ids [[slot, client id]]     the whole of these connections (report.ConnectionRow)
    subscriptions  ids, first, most            their subscriptions (report.SubscriptionRow) from a place in the first one's on
    matching       test, acc, most             subscriptions that a subject reaches: how many, and the first so many
    closed         first                       blocks of connections that have ended, compressed, as they are kept
    sublist        acc                         the numbers of /subsz
    accounts                                   a row for each account
    account        acc                         what is known of one: monitor.accountz
    describe       slot, client_id, server     a client as advisories name it

Home shard only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from shardbroker.auth.gate import ANYBODY, Bearer
from shardbroker.clock import Clock
from shardbroker.hot.engine import Engine
from shardbroker.shard.clients import Client, Clients
from shardbroker.shard.report import (
    BLOCKS_STEP,
    ROWS_STEP,
    SUBSCRIPTIONS_STEP,
    TABLE_ROW,
    TABLE_STEP,
    SubscriptionRow,
)

Query = dict[str, Any]
# More matching subscriptions than anybody looks at in one page.
MATCHING_MAX = 4096


class Monitoring:
    """Answers about the connections and subscriptions of one shard."""

    def __init__(self, engine: Engine, clients: Clients, clock: Clock) -> None:
        self._engine = engine
        self._clients = clients
        self._clock = clock
        self.ops: dict[str, Callable[[Query], dict[str, Any]]] = {
            "table": self._table,
            "rows": self._rows,
            "subscriptions": self._subscriptions,
            "matching": self._matching,
            "closed": self._closed,
            "sublist": self._sublist,
            "accounts": self._accounts,
            "account": self._account,
            "describe": self._describe,
        }

    # -- connections --

    def _table(self, query: Query) -> dict[str, Any]:
        account = query.get("acc", "").encode() or None
        most = min(int(query.get("most", TABLE_STEP)), TABLE_STEP)
        following, table = self._engine.connection_table(query["first"], most, account)
        user = query.get("user", "")
        if user:
            table = b"".join(
                table[at : at + TABLE_ROW.size]
                for at in range(0, len(table), TABLE_ROW.size)
                if self._user_is(user, *TABLE_ROW.unpack_from(table, at)[1::-1])
            )
        answer = {"next": following, "rows": base64.b64encode(table).decode(), "offset_ns": self._offset()}
        if query.get("starts"):
            found = [self._clients.client(row[1], row[0]) for row in TABLE_ROW.iter_unpack(table)]
            answer["starts"] = [client.start_ns if client is not None else 0 for client in found]
        return answer

    def _user_is(self, user: str, slot: int, client_id: int) -> bool:
        client = self._clients.client(slot, client_id)
        return client is not None and client.user == user

    def _offset(self) -> int:
        """Of our monotonic clock to the time since 1970."""
        return self._clock.time_ns() - self._clock.monotonic_ns()

    def _rows(self, query: Query) -> dict[str, Any]:
        rows = []
        offset = self._offset()
        for slot, client_id in query["ids"][:ROWS_STEP]:
            client = self._clients.client(slot, client_id)
            numbers = self._engine.connection(slot, client_id)
            if client is not None and numbers is not None:
                row = self._clients.row(client, numbers[2:11], offset)
                if credentials := self._credentials(client):
                    row = row._replace(more=(row.more or {}) | credentials)
                rows.append(row)
        return {"rows": [tuple(row) for row in rows]}

    def _credentials(self, client: Client) -> dict[str, Any]:
        """What is shown of an open connection only to who asks for `auth`: never what would let anyone in."""
        more: dict[str, Any] = {}
        identity = client.identity or ANYBODY
        bearer = identity.bearer
        if isinstance(bearer, Bearer) and not bearer.bearer:
            more["jwt"] = bearer.token
        state = client.transport.tls if client.transport is not None else None
        if state is not None and state.certificate:
            more["tls_peer_certs"] = [peer_certificate(state.certificate, state.names)]
        return more

    def _closed(self, query: Query) -> dict[str, Any]:
        blocks, recent, following = self._clients.closed.packed(query["first"], BLOCKS_STEP)
        return {
            "blocks": [base64.b64encode(block).decode() for block in blocks],
            "recent": recent,
            "next": following,
            "most": self._clients.closed.most,
        }

    def _describe(self, query: Query) -> dict[str, Any]:
        return {"client": self._clients.describe(query["slot"], query["client_id"], query["server"])}

    # -- subscriptions --

    def _subscriptions(self, query: Query) -> dict[str, Any]:
        """Rows of the first connections until there are `most`; `done`: how many of them are finished, `next`: the place in
        the one after."""
        most = min(int(query.get("most", SUBSCRIPTIONS_STEP)), SUBSCRIPTIONS_STEP)
        rows: list[SubscriptionRow] = []
        first = query["first"]
        done = 0
        for slot, client_id in query["ids"][:ROWS_STEP]:
            following, found = self._engine.subscriptions(slot, client_id, first, most - len(rows))
            rows += map(subscription_row, found)
            first = max(following, 0)
            if following >= 0:
                break
            done += 1
            if len(rows) >= most:
                break
        return {"rows": [tuple(row) for row in rows], "done": done, "next": first}

    def _matching(self, query: Query) -> dict[str, Any]:
        account = query.get("acc", "").encode() or None
        most = min(int(query["most"]), MATCHING_MAX)
        total, found = self._engine.subscriptions_where(query["test"].encode(), account, most)
        return {"total": total, "rows": [tuple(subscription_row(row)) for row in found]}

    def _sublist(self, query: Query) -> dict[str, Any]:
        return {"stats": self._engine.sublist_stats(query.get("acc", "").encode() or None)}

    # -- accounts --

    def _accounts(self, query: Query) -> dict[str, Any]:
        slow = self._clients.slow_consumers
        rows = []
        for name, *row in self._engine.account_rows():
            text = name.decode("utf-8", "replace")
            rows.append((text, *row, slow[text]))
        return {"rows": rows}

    def _account(self, query: Query) -> dict[str, Any]:
        name = query["acc"]
        record = self._clients.accounts.record(name)
        if record is None:
            return {"found": False}
        book = self._clients.account_book
        claims = book.claims(name) if book is not None else None
        fields = {key: value for key, value in asdict(record).items() if key in ("exports", "mappings", "tag", "issuer")}
        # Not the activation tokens.
        fields["imports"] = [
            {key: value for key, value in asdict(made).items() if key != "token"} for made in record.imports
        ]
        fields["jetstream"] = bool(record.jetstream)
        answer = {"found": True, "account": fields, "stats": self._engine.sublist_stats(name.encode())}
        if claims is not None and book is not None:
            answer["jwt"] = book.store.load(name)
            answer["expired"] = not claims.claims.valid_at(self._clock.time_ns() / 1e9)
            answer["tags"] = list(claims.claims.tags)
            answer["revoked"] = dict(claims.revocations)
        return answer


def subscription_row(sub: tuple[Any, ...]) -> SubscriptionRow:
    """A row of the engine's in text."""
    subject, queue, sid, delivered, most, _, client_id, account = sub
    return SubscriptionRow(
        subject.decode("utf-8", "replace"),
        queue.decode("utf-8", "replace") if queue is not None else None,
        sid.decode("utf-8", "replace"),
        delivered,
        most,
        client_id,
        account.decode("utf-8", "replace"),
    )


def peer_certificate(certificate: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """A client's certificate as monitor.go makePeerCerts shows it. names: whom it is for; the last is its subject."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "subject": names[-1] if names else "",
        "spki_sha256": hashlib.sha256(public).hexdigest(),
        "cert_sha256": hashlib.sha256(certificate).hexdigest(),
    }
