"""Named systems: every figure has a source, every count is what the configs give, every page on disk is the zoo's."""

import pathlib

import pytest

from fmzoo import zoo
from fmzoo.errors import InputError
from fmzoo.stages.system_pages import page
from tests.command import fmzoo

PAGES = pathlib.Path(__file__).parents[2] / "docs" / "zoo"
NAMES = {"llama2", "titan", "claude", "jurassic-2-ultra", "stable-diffusion", "imagen", "dalle-2", "midjourney"}
PARTS = {part.config: part.parameters for drawing in zoo.drawings().values() for part in drawing.parts}


def test_all_eight_have_the_page_that_is_written():
    assert set(zoo.system_names()) == NAMES
    assert {path.stem for path in PAGES.iterdir()} == NAMES
    for name in NAMES:
        assert (PAGES / f"{name}.md").read_text() == page(name)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_figure_has_its_source(name):
    system = zoo.system(name)
    assert all(fact.what and fact.value and fact.source for fact in system.facts)
    assert all(stage.settings and stage.source for stage in system.recipe)
    assert all(zoo.entry(entry).sources for entry in system.entries)
    assert bool(system.facts) == (name != "midjourney")


@pytest.mark.parametrize("config", PARTS, ids=lambda config: type(config).__name__)
def test_counts_are_those_of_the_configs(config):
    assert zoo.count_part(config) == PARTS[config]


# What `fmzoo info` calls the row, and how many its makers say that there are
PUBLISHED = {
    "llama2-7b": ("parameters", 7e9), "llama2-13b": ("parameters", 13e9), "llama2-34b": ("parameters", 34e9),
    "llama2-70b": ("parameters", 70e9), "anthropic-52b": ("parameters", 52e9),
    "jurassic1-7.5b": ("parameters", 7.5e9), "jurassic1-178b": ("parameters", 178e9),
    "stable-diffusion-1.5": ("parameters of U-Net", 860e6), "stable-diffusion-2.1": ("parameters of U-Net", 865e6),
    "stable-diffusion-xl": ("parameters of U-Net", 2.6e9), "stable-diffusion-3-medium": ("parameters of MMDiT", 2e9),
    "stable-diffusion-3.5-large": ("parameters of MMDiT", 8.1e9),
    "imagen-text-encoder": ("parameters of T5-XXL 1.1 encoder", 4.6e9),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_info_agrees_with_the_published_count(name):
    row, published = PUBLISHED[name]
    (line,) = (line for line in fmzoo("info", name).out.splitlines() if line.startswith(f"{row}  "))
    assert int(line.removeprefix(row).split()[0].replace(",", "")) == pytest.approx(published, rel=0.04)


def test_counts_of_another_kind_agree_too():
    """The papers' decoders are counted without embeddings, Stable Diffusion 3.5 Medium with its table of positions."""
    for size, (width, _, parameters) in zoo.anthropic.SIZES.items():
        published = float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]
        assert parameters - (50_304 + 8192) * width == pytest.approx(published, rel=0.04)
    mmdit = zoo.drawings()["stable-diffusion-3.5-medium"].parts[0]
    table = mmdit.config.max_grid**2 * mmdit.config.width
    assert mmdit.parameters + table == pytest.approx(2.5e9, rel=0.02)


def test_settings_differ_by_size_as_published():
    small, large = ({stage.name: stage.settings for stage in zoo.llama2_recipe(size)} for size in ("7b", "70b"))
    assert (small["RLHF"]["kl_coefficient"], large["RLHF"]["kl_coefficient"]) == (0.01, 0.005)
    assert (small["reward models"]["learning_rate"], large["reward models"]["learning_rate"]) == (1e-5, 5e-6)
    assert (small["pre-training"]["learning_rate"], large["pre-training"]["learning_rate"]) == (3e-4, 1.5e-4)


def test_info_says_what_is_published_and_what_is_not():
    for name in ("titan", "claude", "jurassic-2-ultra", "midjourney"):
        assert "Number of parameters: not published" in fmzoo("info", name).out
    assert "published with the weights: 7B, 13B, 34B (not released) and 70B" in fmzoo("info", "llama2").out
    assert "860M, 865M and 2.6B" in fmzoo("info", "stable-diffusion").out
    assert "2B, 600M and 400M" in fmzoo("info", "imagen").out
    assert "1B, 3.5B, 700M and 300M" in fmzoo("info", "dalle-2").out
    said = fmzoo("info", "stable-diffusion-1.5").out
    assert all(count in said for count in ("859,520,964", "83,653,863", "123,060,480", "1,066,235,307"))


def test_zoo_lists_systems_beside_decoders():
    listed = fmzoo("zoo").out
    assert all(f" {name} " in f" {listed} " for name in (*NAMES, "stable-diffusion-3.5-large"))


def test_an_unknown_system_brings_the_nearest():
    with pytest.raises(InputError, match=r"no system 'midjorney'; the nearest are midjourney"):
        zoo.system("midjorney")
