"""Where a path that a user gives leads: local ones made absolute, ``file://`` taken off, unknown schemes refused."""

import os
from urllib.parse import unquote, urlsplit

from etils import epath

from fmzoo.errors import InputError


def locate(path: epath.PathLike) -> epath.Path:
    """An absolute local path, or a remote one as it is.

    Args:
      path: relative, absolute, ``~/...``, ``file:///...``, or of a scheme that `etils.epath` knows, such as ``gs://``.

    Raises:
      InputError: the scheme is unknown, or a ``file://`` names another machine.
    """
    text = os.fspath(path)
    if text.startswith("file://"):
        url = urlsplit(text)
        if url.netloc not in ("", "localhost"):
            raise InputError(f"path {text[:120]!r} is on the machine {url.netloc!r}; file:///... is needed")
        text = unquote(url.path)
    try:
        found = epath.Path(text)
    except KeyError:
        scheme = text.partition("://")[0]
        raise InputError(
            f"path {text[:120]!r} has the scheme {scheme!r}; a local path, file:// or gs:// is needed"
        ) from None
    return found if not is_local(found) else epath.Path(os.path.abspath(found.expanduser()))


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is on a file system of this machine."""
    return "://" not in os.fspath(path)
