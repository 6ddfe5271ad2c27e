"""What is known of a named system as a page of Markdown, and of a model that draws as lines for the terminal."""

from fmzoo import zoo


def page(name: str) -> str:
    """A system's page.

    Raises:
      InputError: there is no system of that name.
    """
    system = zoo.system(name)
    lines = [
        f"# {system.title}",
        "",
        f"Made by {system.made_by.rstrip('.')}. Number of parameters: {system.count}.",
        "",
    ]
    lines += _table(("", ""), [
        ("public", system.public), ("not public", system.unpublished), ("assumed here", system.assumed),
        ("in this zoo", system.stand_in),
    ])  # fmt: skip
    if system.facts:
        rows = [(fact.what, fact.value, fact.source) for fact in system.facts]
        lines += ["", "## Figures", "", *_table(("what", "published", "source"), rows)]
    if system.entries:
        entries = [zoo.entry(entry) for entry in system.entries]
        rows = [(f"`{e.name}`", f"{e.parameters:,}", e.assumed, "; ".join(e.sources)) for e in entries]
        lines += ["", "## Decoders", "", *_table(("name", "parameters", "assumed", "sources"), rows)]
    for drawing in system.drawings:
        rows = [(part.name, f"{part.parameters:,}") for part in drawing.parts]
        rows += [("together", f"{drawing.parameters:,}")] if len(rows) > 1 else []
        lines += ["", f"## `{drawing.name}`", "", f"Source: {drawing.source}.", ""]
        lines += _table(("component", "parameters"), rows)
    if system.recipe:
        lines += ["", "## Recipe"]
    for stage in system.recipe:
        rows = [(key.replace("_", " "), _number(value)) for key, value in stage.settings.items()]
        lines += ["", f"### {stage.name}", "", f"Source: {stage.source}.", "", *_table(("setting", "published"), rows)]
    return "\n".join(lines) + "\n"


def describe_drawing(name: str) -> str:
    """The parameters of a model that draws, counted from its configs component by component.

    Raises:
      KeyError: there is no such model.
    """
    drawing = zoo.drawings()[name]
    counts = {part.name: zoo.count_part(part.config) for part in drawing.parts}
    lines = [f"{'source':<44} {name}: {drawing.source}"]
    lines += [f"{'parameters of ' + part:<44} {count:,}"[:160] for part, count in counts.items()]
    return "\n".join([*lines, f"{'parameters':<44} {sum(counts.values()):,}"])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def _number(value: float | str) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
