"""Is this client who it says it is: a user with a password, or a token, in plain text.

Source of the rules: auth.go processClientOrLeafAuthentication (a token is looked at before a user) and
comparePasswords. Comparisons take the same time whether the first or the last byte differs.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the configuration asks for; all empty: everybody may come in."""

    user: str = ""
    password: str = ""
    token: str = ""

    @property
    def required(self) -> bool:
        return bool(self.user or self.token)

    def accepts(self, user: str, password: str, token: str) -> bool:
        """Whether a CONNECT with these fields may come in. An empty field never equals a secret that is set."""
        if self.token:
            return _equal(self.token, token)
        if self.user:
            # Both are compared whatever the first says: the time does not tell whether the user exists.
            user_matches = _equal(self.user, user)
            return _equal(self.password, password) and user_matches
        return True


def _equal(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))
