"""Commands about models: what they are, which there are, and into another format."""

import dataclasses
import os
import sys
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fmzoo.cli.starting import Source, start_computing


@dataclasses.dataclass(frozen=True)
class Info:
    """Says what a model is and what it costs, without its weights."""

    source: Source  # a run folder, a folder in the format of transformers, or a name of the zoo

    def run(self) -> None:
        """Prints the figures, then the config field by field."""
        from fmzoo.stages.describe import describe

        if said := _system(self.source):
            print(said)
            return
        found = describe(self.source)
        context, flops = f"{found.config.context_length:,} tokens", (found.forward_flops, found.training_flops)
        active = f", {found.active:,} for one token" if found.active < found.parameters else ""
        rows = {
            "source": found.source,
            "parameters": f"{found.parameters:,}" + active,
            "FLOPs a token": f"{flops[0]:,.0f} forward, {flops[1]:,.0f} in training, at {context}",
            "cache": f"{found.cache_bytes:,} bytes for a sequence of {context} in {found.config.dtype}",
            "memory": f"{found.weight_bytes:,} bytes of float32 weights; {found.training_bytes:,} to train with Adam, "
            "activations on top",
        }  # fmt: skip
        if found.steps:
            rows["checkpoints"] = ", ".join(map(str, found.steps))
        for name, value in {**rows, **dict(_fields(found.config, "model."))}.items():
            print(f"{name:<36} {value}")


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a model in another format, into a new folder or, for GGUF, a new file."""

    source: Source  # whatever loads: a run folder, a path, a name of the zoo, or owner/model of the Hugging Face Hub
    folder: Positional[Annotated[str, arg(metavar="FOLDER")]]  # that is not there yet; NAME.gguf is a file
    format: str = "huggingface"  # or diffusers (of systems that draw), gguf, gguf-q8_0, gguf-f32, orbax, peft
    dtype: str | None = None  # what the parameters are written in, but for gguf; by default as the source has them
    adapter: str | None = None  # LoRA weights to merge into it: a folder that PEFT wrote, or a safetensors file

    def run(self) -> None:
        """Converts."""
        start_computing()
        from fmzoo.pretrained import convert

        convert(self.source, self.folder, self.format, self.dtype, adapter=self.adapter)
        print(f"{self.folder} is written")


@dataclasses.dataclass(frozen=True)
class Zoo:
    """Lists the published systems that have a name here."""

    def run(self) -> None:
        """Prints a table."""
        from rich.console import Console
        from rich.table import Table

        from fmzoo import zoo

        table = Table("name", "parameters", "system", "public", box=None, header_style="bold")
        table.columns[1].justify = "right"
        for entry in map(zoo.entry, zoo.names()):
            table.add_row(entry.name, f"{entry.parameters:,}", entry.system, entry.public)
        for system in map(zoo.system, zoo.system_names()):
            table.add_row(system.name, "", system.title, system.public)
            for drawing in system.drawings:
                table.add_row(drawing.name, f"{drawing.parameters:,}", system.title, system.public)
        Console(width=None if sys.stdout.isatty() else 160).print(table)


def _system(source: str) -> str | None:
    """What is known of a named system or of a model that draws; a path of the same name goes before."""
    from fmzoo import zoo
    from fmzoo.stages.system_pages import describe_drawing, page

    if os.path.exists(source):
        return None
    if source in zoo.system_names():
        return page(source)
    return describe_drawing(source) if source in zoo.drawings() else None


def _fields(config: Any, prefix: str) -> list[tuple[str, Any]]:
    """Every field of nested dataclasses with its path as an option."""
    found = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        found += _fields(value, f"{name}.") if dataclasses.is_dataclass(value) else [(name, value)]
    return found
