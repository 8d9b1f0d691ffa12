"""Memory settings that must stand before torch is imported. The one place where they are made.

On CPU every training step frees and asks again for hundreds of blocks of megabytes. glibc's malloc aligns each of them
by splitting, so freed blocks never fit again, and gives pages back to the kernel that the next step must fault in
anew. tcmalloc reuses them: where the system has it (Debian: `apt install libtcmalloc-minimal4`), the command starts
itself once more with it preloaded. Elsewhere glibc is told to keep what it has.

POSTTRAIN_ALLOCATOR=system leaves everything alone; a preload that is already set is respected.
"""

import ctypes
import os
import sys
from pathlib import Path

PLACES = ("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
MARK = "POSTTRAIN_ALLOCATOR"

# mallopt(3) parameters, from malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more


def tune() -> str:
    """Choose the allocator of this process; returns its name. May replace the process by itself, once."""
    if sys.platform != "linux" or os.environ.get(MARK) == "system":
        return "system"
    if os.environ.get(MARK) == "tcmalloc" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return "preloaded"
    library = find_tcmalloc()
    if library is not None and sys.orig_argv:
        preload = " ".join(part for part in (os.environ.get("LD_PRELOAD", ""), str(library)) if part)
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "LD_PRELOAD": preload, MARK: "tcmalloc"})
    return "glibc, kept" if _keep_memory() else "system"


def find_tcmalloc() -> Path | None:
    """The preloadable library, where the system has one."""
    for place in PLACES:
        for name in NAMES:
            for found in sorted(Path("/").glob(f"{place[1:]}/{name}")):
                return found
    return None


def _keep_memory() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = (
        (M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD),
        (M_TRIM_THRESHOLD, -1),  # as an unsigned size: never
        (M_TOP_PAD, 64 * 2**20),
    )
    return all(mallopt(parameter, value) for parameter, value in settings)
