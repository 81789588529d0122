"""Settings that are read and checked, and that nothing serves yet: refused where it is unsafe to go without, else warned of.

Whoever builds one of them takes its line out here.
"""

from __future__ import annotations

from shardbroker.options import Options


def unserved(options: Options) -> tuple[list[str], list[str]]:
    """(errors, warnings) of what these options ask for in vain."""
    errors: list[str] = []
    warnings: list[str] = []
    if options.auth_callout and options.auth_callout.xkey:
        errors.append("auth_callout: requests are not encrypted yet, so the server would send passwords in the clear")
    return errors, warnings
