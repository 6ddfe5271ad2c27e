"""The `fmzoo` command: parse, call one function, print."""

from fmzoo.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
