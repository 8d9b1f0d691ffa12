"""Memory settings that must stand before torch is imported. The one place where they are made.

On CPU every training step frees and asks again for blocks of many megabytes. By default glibc gives such blocks back
to the kernel at once, so each step pays page faults for all of them: a third of the time and more. Here the freed
memory stays with the process and large blocks come in 2 MB pages. Set POSTTRAIN_ALLOCATOR=system to leave it alone.
"""

import ctypes
import os
import sys

# mallopt(3) parameters, from malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def tune() -> bool:
    """Keep freed memory (glibc only); returns whether the settings took. Call before torch allocates."""
    if os.environ.get("POSTTRAIN_ALLOCATOR") == "system" or not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks the kernel for huge pages
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 * 2**20))
    return all(mallopt(parameter, value) for parameter, value in settings)
