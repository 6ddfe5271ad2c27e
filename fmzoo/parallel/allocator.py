"""The C library's allocator, told to keep what a computation frees."""

import ctypes
import sys

# The parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1  # mallopt(3): "Setting M_TRIM_THRESHOLD to -1 disables trimming completely"


def keep_heap() -> bool:
    """Keeps freed memory in one heap of this process, so that each step finds its pages where the last one left them.

    XLA on CPU takes and frees its temporaries at every step, and asks the system for their pages anew each time. The
    price of keeping them is that the process holds on to the most that it ever used. It is for a program to choose,
    before its first computation starts threads; nothing is done on import.

    Returns:
      Whether it was done: only on Linux with glibc, silently not elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has a mallopt of no effect
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_ARENA_MAX, 1))
    return all(library.mallopt(name, value) for name, value in settings)  # 1 is success
