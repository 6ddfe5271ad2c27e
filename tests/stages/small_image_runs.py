"""The smallest runs of images and of an autoencoder, and a process of some that takes its time: `python -m` with the
seconds that each batch waits, and name and folder of each run."""

import dataclasses
import sys
import time

from fmzoo import data, stages, train
from fmzoo.interop.image_runs import ImageModelConfig
from fmzoo.models.autoencoder import AutoencoderConfig
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.discriminator import DiscriminatorConfig
from fmzoo.models.unet_config import UNetConfig
from fmzoo.stages import PretrainAutoencoderConfig, PretrainImagesConfig, autoencoder_report, image_report
from fmzoo.stages.images import COSINE

UNET = UNetConfig(
    in_channels=1, out_channels=1, sample_size=8, channels=(8,), layers=(1,), transformer_layers=(1,), num_heads=(2,),
    context_dim=8, groups=4, mid="none",
)  # fmt: skip
READER = ClipTextConfig(vocab_size=260, d_model=8, num_layers=1, num_heads=2, d_ff=16, context_length=20)
IMAGES = PretrainImagesConfig(
    model=ImageModelConfig(UNET, COSINE, READER), data="digits", batch_size=8, steps=12, checkpoint_every=3, ema=0.9,
    dropout=0.3, quiet=True, optimizer=train.OptimizerConfig(schedule="constant", warmup_steps=1),
)  # fmt: skip
AUTOENCODER = PretrainAutoencoderConfig(
    model=AutoencoderConfig(1, 2, (4, 8), 1, 4, mid_attention=False), data="digits", size=8,
    discriminator=DiscriminatorConfig(1, 4, 1, norm_groups=4), kl=1e-3, batch_size=8, steps=12, checkpoint_every=3,
    ema=0.9, quiet=True, optimizer=train.OptimizerConfig(schedule="constant", warmup_steps=1),
)  # fmt: skip
RUNS = {config.stage: config for config in (IMAGES, AUTOENCODER)}


def leave_out_reports(patch=setattr) -> None:
    """Has runs end with a line in place of pictures, whose drawing takes longer to compile than the run."""

    def report(config, workdir, *_):
        (workdir / "report.md").write_text("finished\n")

    patch(image_report, "report_images", report)
    patch(autoencoder_report, "report_autoencoder", report)


def run(name: str, folder, **changes) -> bool:
    """Runs to the end, or goes on."""
    return getattr(stages, name)(dataclasses.replace(RUNS[name], **changes), folder)


def slow_down(seconds: float) -> None:
    """Has every batch wait."""
    given = data.ImageIterator.__next__

    def wait(self):
        time.sleep(seconds)
        return given(self)

    data.ImageIterator.__next__ = wait


if __name__ == "__main__":
    leave_out_reports()
    slow_down(float(sys.argv[1]))
    for name, folder in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        run(name, folder)
