"""What monitoring plugins say (Nagios, Icinga, Zabbix, Sensu): one line with perfdata, and an exit status of 0 to 3.

    HEALTH OK - 3 connections | connections=3;100;200 cpu=1.5%;; memory=4096B;;

Source of the form: the Monitoring Plugins development guidelines. A threshold is passed when the value is above it, or, with the
critical one below the warning one, when it is below, as in `nats server check`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final, NoReturn

OK, WARNING, CRITICAL, UNKNOWN = range(4)
NAMES: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(slots=True)
class Result:
    """One check's outcome, put together bit by bit."""

    name: str
    status: int = OK
    said: list[str] = field(default_factory=list)
    perfdata: list[str] = field(default_factory=list)

    def say(self, text: str, status: int = OK) -> None:
        """Something worth saying; the worst status counts."""
        self.said.append(text)
        self.status = max(self.status, status)

    def measure(
        self,
        name: str,
        value: float,
        unit: str = "",
        warn: float | None = None,
        critical: float | None = None,
    ) -> None:
        """A number, against its thresholds if it has some."""
        bounds = ";".join("" if bound is None else f"{bound:g}" for bound in (warn, critical))
        # No exponents: half of those who read it know none.
        shown = f"{value:.6f}".rstrip("0").rstrip(".")
        self.perfdata.append(f"{name}={shown}{unit};{bounds}")
        low = warn is not None and critical is not None and critical < warn
        for bound, status in ((critical, CRITICAL), (warn, WARNING)):
            if bound is not None and (value < bound if low else value > bound):
                self.say(f"{name} {value:.6g}{unit} is {'under' if low else 'over'} {bound:g}{unit}", status)
                return

    def line(self) -> str:
        text = f"{self.name} {NAMES[self.status]}"
        if self.said:
            # A bar begins the perfdata.
            text += " - " + ", ".join(self.said).replace("|", "/")
        return f"{text} | {' '.join(self.perfdata)}" if self.perfdata else text

    def end(self) -> NoReturn:
        """Print and exit."""
        print(self.line())
        sys.exit(self.status)
