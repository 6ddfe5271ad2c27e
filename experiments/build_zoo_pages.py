"""Writes docs/zoo: a page for each named system, from what the zoo says of it.

Run from the root of the repository (seconds):

    python experiments/build_zoo_pages.py
"""

import pathlib

from fmzoo import zoo
from fmzoo.stages.system_pages import page

FOLDER = pathlib.Path("docs/zoo")

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in zoo.system_names():
        (FOLDER / f"{name}.md").write_text(page(name))
