"""How long a thread of torch's that waits for the others stays awake. Must stand before torch is imported.

torch's operators on CPU are shared out over threads that meet at the end of each. Whoever is first waits in a loop, so
as to go on at once; GNU's OpenMP loops for some ten milliseconds before it sleeps. Where another program wants the
processor, that loop takes it from the very thread that is waited for, and small operators take milliseconds each.
"""

import os
import sys

SPINS = "30000"
"""About a millisecond: longer than the pauses between operators, much shorter than a turn of the scheduler's."""
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def tune() -> None:
    """Let waiting threads sleep soon, where nobody has chosen and torch is not there yet."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = SPINS
