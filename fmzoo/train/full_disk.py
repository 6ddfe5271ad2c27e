"""A full disk told in one sentence."""

import contextlib
import errno
from collections.abc import Iterator

from etils import epath

from fmzoo.errors import InputError


@contextlib.contextmanager
def full_disk_explained(folder: epath.Path) -> Iterator[None]:
    """Turns a full disk into one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not is_full(error):
            raise
        raise InputError(
            f"no space is left in {folder}; free some, and the run goes on from its last complete checkpoint"
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that the disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
