"""Mutations of files: of their bytes, whatever they mean, and of the trees of objects, lists and values that they hold.

Each is drawn from a `random.Random` and says in words what it did.
"""

import random
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], tuple[str, bytes]]
WHOLE = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63))
NUMBERS = (*WHOLE, 10**30, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"))
TEXTS = (
    "", "..", "../outside", "../../etc/passwd", "/etc/passwd", "..\\outside", "a/../../b", "C:\\x", "\0", "\ud800",
    "{i}", "(" * 300, "(a+)+$", "(?<!a*)", "[", "\\", "%s", "\u2581", "\n", "<s>", "x" * 100_000, "a" * 30 + "!",
)  # fmt: skip
HEADER = 1024  # bytes, in which half of the positions are drawn
MOST_COPIES = 100_000


def mutate_bytes(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """One mutation of the bytes, or a few of them."""
    said = []
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        name, content = draw.choice(BYTES)(content, draw)
        said.append(name)
    return ", ".join(said), content


def _place(content: bytes, draw: random.Random) -> int:
    """A position, rather in the header than anywhere."""
    return draw.randrange(1 + min(len(content), draw.choice((HEADER, len(content)))))


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = _place(content, draw)
    return start, min(len(content), start + draw.choice((1, 2, 8, 64, 1024)))


def flip_bits(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """One to eight bits, each anywhere."""
    changed = bytearray(content)
    places = [_place(content, draw) for _ in range(draw.randint(1, 8))]
    for at in places:
        if at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
    return f"bits flipped at {places}", bytes(changed)


def truncate(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The end is cut off."""
    at = draw.choice((_place(content, draw), max(0, len(content) - draw.randint(1, 16))))
    return f"cut to {at} bytes", content[:at]


def insert(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Bytes come in between."""
    at, new = _place(content, draw), draw.randbytes(draw.choice((1, 4, 8, 256)))
    return f"{len(new)} bytes inserted at {at}", content[:at] + new + content[at:]


def delete(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A span is gone."""
    start, stop = _span(content, draw)
    return f"{start}:{stop} deleted", content[:start] + content[stop:]


def repeat(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A span stands there twice, or very often."""
    start, stop = _span(content, draw)
    copies = draw.choice((2, 3, max(2, MOST_COPIES // max(1, stop - start))))
    return f"{start}:{stop} {copies} times", content[:start] + content[start:stop] * copies + content[stop:]


def swap(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Two spans change places."""
    (a, b), (c, d) = sorted((_span(content, draw), _span(content, draw)))
    b = min(b, c)
    return f"{a}:{b} and {c}:{d} swapped", content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def overwrite_number(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A field of 1 to 8 bytes, such as a length, becomes huge, negative or zero."""
    size, order = draw.choice((1, 2, 4, 8, 8)), draw.choice(("little", "little", "big"))
    at, number = _place(content, draw), draw.choice(WHOLE) % 256**size
    at -= at % draw.choice((1, size))
    return f"{number} in {size} bytes at {at}", content[:at] + number.to_bytes(size, order) + content[at + size :]


BYTES: tuple[Mutation, ...] = (flip_bits, truncate, insert, delete, repeat, swap, overwrite_number)


def mutate_tree(tree: Any, draw: random.Random) -> str:
    """Changes one to three nodes of a tree of dicts and lists in place, and says which and how."""
    said = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at, key, path = _node(tree, draw)
        if key is not None:
            said.append(f"{draw.choice(NODES)(at, key, draw)} at {path[:200]}")
    return ", ".join(said) or "nothing changed"


def _node(tree: Any, draw: random.Random) -> tuple[Any, Any, str]:
    """A container and a key of it, found by going down from the top; low nodes are not likelier than high ones."""
    at, key, path = tree, None, ""
    while True:
        below = at if key is None else at[key]
        if not isinstance(below, dict | list) or not below or (key is not None and draw.random() < 0.2):
            return at, key, path
        at, key = below, draw.choice(list(below) if isinstance(below, dict) else range(len(below)))
        path += f"/{ascii(key)[:60]}"


def odd_value(draw: random.Random) -> Any:
    """A value of some kind: a number at a limit, a strange text, a container, nothing."""
    return draw.choice(
        (draw.choice(NUMBERS), draw.choice(TEXTS), None, True, [], {}, [draw.choice(NUMBERS)] * 3, [draw.choice(TEXTS)],
         {draw.choice(TEXTS): draw.choice(NUMBERS)})
    )  # fmt: skip


def replace(at: Any, key: Any, draw: random.Random) -> str:
    """The node is something else."""
    at[key] = odd_value(draw)
    return f"{str(at[key])[:40]!r}"


def renumber(at: Any, key: Any, draw: random.Random) -> str:
    """A number is another one; anything else becomes a number."""
    old = at[key] if type(at[key]) in (int, float) else 0
    at[key] = draw.choice((draw.choice(NUMBERS), old + 1, old - 1, old * 2, -old, float(old), str(old)))
    return f"{at[key]!r:.40} for {old!r:.40}"


def reword(at: Any, key: Any, draw: random.Random) -> str:
    """A text is a strange one, or has one in it."""
    old = at[key] if isinstance(at[key], str) else ""
    new = draw.choice(TEXTS)
    at[key] = draw.choice((new, old + new, new + old, old[:-1], old.upper()))
    return f"text {at[key][:40]!r}"


def remove(at: Any, key: Any, draw: random.Random) -> str:
    """The node is gone."""
    del at[key]
    return "removed"


def add(at: Any, key: Any, draw: random.Random) -> str:
    """There is one more, a copy or something else."""
    new = draw.choice((at[key], odd_value(draw)))
    if isinstance(at, list):
        at.insert(draw.randint(0, len(at)), new)
    else:
        at[draw.choice((*TEXTS, *(f"{key}{end}" for end in ("_", "s", "."))))] = new
    return "one more"


def rename(at: Any, key: Any, draw: random.Random) -> str:
    """The node has another name, or has changed places in its list."""
    value = at.pop(key)
    if isinstance(at, list):
        at.insert(draw.randint(0, len(at)), value)
    else:
        at[draw.choice((*TEXTS, key.upper() if isinstance(key, str) else "0"))] = value
    return "renamed"


def exchange(at: Any, key: Any, draw: random.Random) -> str:
    """Two nodes beside each other have each other's values."""
    other = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
    at[key], at[other] = at[other], at[key]
    return f"exchanged with {other!r:.40}"


def nest(at: Any, key: Any, draw: random.Random) -> str:
    """The node lies within many lists or objects."""
    depth, wrap = draw.choice((1, 20, 200, 450)), draw.choice((lambda x: [x], lambda x: {"a": x}))
    for _ in range(depth):
        at[key] = wrap(at[key])
    return f"{depth} deeper"


def lengthen(at: Any, key: Any, draw: random.Random) -> str:
    """A list or a text is many times as long."""
    if isinstance(at[key], list | str | bytes):
        at[key] = at[key] * draw.choice((2, 10, max(1, 2000 // max(1, len(at[key])))))
        return f"length {len(at[key])}"
    return replace(at, key, draw)


NODES = (replace, replace, renumber, renumber, reword, remove, add, rename, exchange, nest, lengthen)
