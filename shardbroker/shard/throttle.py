"""Logins of an address that has failed often wait their turn, so that passwords cannot be tried at the speed of the wire.

Each address has a budget of failures, which fills again with time. Within it nothing waits. Above it every login from there,
right or wrong, is looked at one after the other at the rate of refill: a success tells as much as a failure. Memory is
bounded: the addresses that failed longest ago are forgotten first. Ours; nats-server has no such rule.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

# Clients with an old password that reconnect stay below; a search for passwords does not.
FAILURES_MAX: Final = 100
REFILL_PER_SECOND: Final = 20.0
ADDRESSES_MAX: Final = 4096
# Whoever owns an IPv6 address owns the network around it.
IPV6_PREFIX: Final = 64


class Throttle:
    """Failures by address. Times in seconds of any steady clock."""

    def __init__(self) -> None:
        # When the budget of an address will be full again; least recently failed first.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, ip: str, now: float) -> float:
        """How long a login from this address has to wait; its turn is then taken."""
        key = _network(ip)
        full_at = self._full_at.get(key)
        if full_at is None:
            return 0.0
        if full_at <= now:
            del self._full_at[key]
            return 0.0
        above = round((full_at - now) * REFILL_PER_SECOND - FAILURES_MAX, 3)
        if above < 0:
            return 0.0
        # The next one waits behind this one.
        self._full_at[key] = full_at + 1 / REFILL_PER_SECOND
        return (above + 1) / REFILL_PER_SECOND

    def failed(self, ip: str, now: float) -> None:
        """A login was refused."""
        key = _network(ip)
        self._full_at[key] = max(self._full_at.get(key, 0.0), now) + 1 / REFILL_PER_SECOND
        self._full_at.move_to_end(key)
        while len(self._full_at) > ADDRESSES_MAX:
            self._full_at.popitem(last=False)


def _network(ip: str) -> str:
    if ":" not in ip:
        return ip
    try:
        return str(ipaddress.ip_network((ip.partition("%")[0], IPV6_PREFIX), strict=False))
    except ValueError:
        return ip
