"""Commands of models that draw."""

import dataclasses

from fmzoo.cli.starting import Source, start_computing


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draws pictures of a prompt into one PNG, the settings in its metadata."""

    source: Source  # a run folder, or a folder in the format of diffusers
    prompt: str  # what to draw; the number of a class, for a model of classes
    out: str  # the PNG
    negative: str | None = None  # what to lead away from
    count: int = 4  # pictures
    solver: str = "dpm++2m"
    steps: int = 25
    guidance: float = 5.0  # 1 is none
    seed: int = 0  # the same seed gives the same pictures
    height: int | None = None  # of a picture, with width; the model's own by default
    width: int | None = None

    def run(self) -> None:
        """Draws, with a bar."""
        start_computing()
        from fmzoo.stages.draw import DrawConfig, draw

        names = [field.name for field in dataclasses.fields(DrawConfig)]
        draw(self.source, self.out, DrawConfig(**{name: getattr(self, name) for name in names}))
        print(f"{self.out} is written")
