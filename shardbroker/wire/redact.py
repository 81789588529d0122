"""Take secrets out of what is logged of a client's words. Source: client.go removeSecretsFromTrace.

nats-server stops at the first quote, comma or brace, and so shows the rest of a password that holds one; here a quoted
value goes as a whole. A JWT is taken out too: it names its bearer's rights.
"""

from __future__ import annotations

import re
from typing import Final

_VALUE: Final = rb'("?)(?:(?<=")(?:[^"\\]|\\[\s\S])*|[^",\r\n}]*)'
# client.go prefixAuthPat and exactAuthPat
_SECRETS: Final = (
    re.compile(rb'("?\s*(?:auth_token\S*?|pass\S*?)"?\s*[:=]\s*)' + _VALUE),
    re.compile(rb'((?:^|[^A-Za-z0-9_])"?\s*(?:proxy_sig|nkey|sig|jwt)"?\s*[:=]\s*)' + _VALUE),
)


def redact(text: bytes) -> bytes:
    """A CONNECT's JSON, or the like, without passwords, tokens, keys and signatures."""
    for pattern in _SECRETS:
        text = pattern.sub(rb"\1\2[REDACTED]", text)
    return text
