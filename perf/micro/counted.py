"""Run under callgrind by perf.micro.instructions: each named case twice, once FEW and once MANY passes, a dump of each.

Counting is off but for the loops, so building the inputs costs little. The process is one thread without Python's
collector, and addresses and hashes are the same at every run, so the counts are.
"""

from __future__ import annotations

import gc
import sys

from perf.micro import counting
from perf.micro.cases import CASES

FEW, MANY = 1, 3
WARM = 2                                # passes before: routes are kept at a subject's second message


def main(names: list[str]) -> None:
    if not counting.under_valgrind():
        raise SystemExit("this is for perf.micro.instructions")
    gc.disable()
    for name in names:
        made = CASES[name].make()
        made.loop.run(WARM)
        counting.start()
        for passes in (FEW, MANY):
            total = made.loop.run(passes)
            counting.dump(b"%s/%d/%d" % (name.encode(), passes, made.operations))
            if total != passes * made.total:
                raise SystemExit(f"{name}: the loop's sum is {total}, {passes * made.total} was due")
        counting.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
