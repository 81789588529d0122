"""Take secrets out of what is logged of a client's words. Source: client.go removeSecretsFromTrace.

nats-server stops at the first quote, comma or brace, and so shows the rest of a password that holds one; here a quoted
value goes as a whole, and so does a list or an object. Names are as CONNECT takes them: in letters of any case, and with
escapes. A JWT is taken out too: it names its bearer's rights.
"""

from __future__ import annotations

import json
import re
from typing import Final

_VALUE: Final = rb'("?)(?:(?<=")(?:[^"\\]|\\[\s\S])*|[\[{][^\r\n]*|[^",\r\n}]*)'
# client.go prefixAuthPat and exactAuthPat
_SECRETS: Final = (
    re.compile(rb'("?\s*(?:auth_token\S*?|pass\S*?)"?(?:\s*[:=]\s*|(?<=")\s+(?=")))' + _VALUE, re.IGNORECASE),
    re.compile(rb'((?:^|[^A-Za-z0-9_])"?\s*(?:proxy_sig|nkey|sig|jwt)"?(?:\s*[:=]\s*|(?<=")\s+(?=")))' + _VALUE, re.IGNORECASE),
)
_NAME: Final = re.compile(rb'"(?:[^"\\]|\\[\s\S])*"(?=\s*:)')


def redact(text: bytes) -> bytes:
    """A CONNECT's JSON, or the like, without passwords, tokens, keys and signatures."""
    if b"\\u" in text:
        text = _NAME.sub(_plain, text)
    for pattern in _SECRETS:
        text = pattern.sub(rb"\1\2[REDACTED]", text)
    return text


def _plain(name: re.Match[bytes]) -> bytes:
    """A name without its escapes, as far as it is JSON."""
    try:
        return json.dumps(json.loads(name.group()), ensure_ascii=False).encode("utf-8", "replace")
    except ValueError:
        return name.group()
