"""Settings that are read and checked, and that nothing serves yet: refused where it is unsafe to go without, else warned of.

Whoever builds one of them takes its line out here.
"""

from __future__ import annotations

from shardbroker.options import Options


def unserved(options: Options) -> tuple[list[str], list[str]]:
    """(errors, warnings) of what these options ask for in vain."""
    errors, warnings = [], []
    if options.accounts:
        errors.append(
            "accounts and mappings are not served yet, so the server would not separate what it should"
        )
    if any(user.permissions for user in options.users):
        errors.append("permissions are not served yet, so the server would allow what it should not")
    if options.system_account:
        errors.append("system_account: accounts are not served yet")
    if options.auth_callout:
        errors.append("auth_callout is not served yet, so the server would admit whom it should not")
    if options.operator_mode:
        errors.append("operator mode (JWT) is not served yet, so the server would admit whom it should not")
    if options.tls:
        errors.append("tls: TLS is not served yet, so the server would talk in the clear")
    if options.websocket.port:
        warnings.append("websocket: WebSocket is not served yet; nothing listens for it")
    return errors, warnings
