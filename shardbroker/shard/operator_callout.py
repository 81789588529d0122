"""Auth callout of an operator's accounts: in one whose claims name `auth_users` a service of its own decides who comes in.

    CONNECT with a user JWT of that account (or the sentinel) -> what trust.py says of it -> the service, in that account
            <- a user JWT, of that account or of one that it may place users in

Source: nats-server's auth_callout.go, in operator mode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from shardbroker.auth.claims import user_claims
from shardbroker.auth.gate import Identity, Login, Refusal
from shardbroker.auth.jwt import JwtError, get
from shardbroker.auth.model import AuthCallout
from shardbroker.auth.trust import OperatorGate
from shardbroker.shard.callout import Asker, Response, new_user, without_requests
from shardbroker.shard.internal import NoAnswer


class OperatorCallout:
    """Asks the services of all accounts. `gate()`: the rules as they are now; `know(account)`: ask for an account, where
    they have to be asked for."""

    def __init__(
        self, asker: Asker, gate: Callable[[], OperatorGate | None], know: Callable[[str], Awaitable[None]]
    ) -> None:
        self._asker = asker
        self._gate = gate
        self._know = know

    def wanted(self, login: Login, answer: Identity | Refusal) -> bool:
        """Whether a service decides on this one: the token is good, and its account delegates."""
        return isinstance(answer, Identity) and answer.delegated

    def guarded(self, identity: Identity) -> Identity:
        """Who is in an account with a service may not send requests to it in the server's name."""
        gate = self._gate()
        claims = gate.accounts.claims(identity.account) if gate is not None else None
        return without_requests(identity) if claims is not None and claims.external is not None else identity

    async def decide(self, login: Login, client: dict[str, Any], answer: Identity | Refusal) -> Identity | Refusal:
        """Ask the service of the account that the token is of. `client`: see Asker.ask."""
        gate = self._gate()
        assert isinstance(answer, Identity) and answer.bearer is not None
        claims = gate.accounts.claims(answer.account) if gate is not None else None
        if gate is None or claims is None or claims.external is None:
            return Refusal("Account no longer delegates its users")
        settings = AuthCallout(answer.account, answer.account, claims.external.auth_users, claims.external.xkey)
        user = new_user()
        try:
            response = await self._asker.ask(
                settings, replace(login, jwt=answer.bearer.token), client, user, answer.bearer.subject
            )
            await self._know(user_claims(get(response.claims.nats, "jwt", str)).account)
            # Accounts may have changed meanwhile.
            gate = self._gate()
            if gate is None:
                return Refusal("There is no operator any more")
            return self._placed(gate, response, user, answer.account, login)
        except NoAnswer as error:
            return Refusal(f"Authorization callout on account {answer.account!r}: {error}")
        except JwtError as error:
            return Refusal(f"Auth callout violation on account {answer.account!r}: {error}")

    def _placed(
        self, gate: OperatorGate, response: Response, user: str, asked: str, login: Login
    ) -> Identity | Refusal:
        claims = gate.accounts.claims(asked)
        if claims is None:
            raise JwtError("the account is no longer there")
        # Whom a box comes from is known by its key.
        if not response.sealed and response.claims.issuer not in claims.signing_keys:
            raise JwtError("auth callout signing key is unknown")
        token = get(response.claims.nats, "jwt", str)
        return gate.place(token, user, claims, login, self._asker.clock.time_ns() / 1e9)
