"""Which documents of the embedded corpora are for training, for tuning, and held out."""

import hashlib

HELD_OUT = ("macbeth", "tempest", "sonnets")
VALIDATION_ONE_IN = 40


def split_of(work: str, part: str) -> str:
    """Returns `test` for the held-out works, `validation` for one other document in 40, else `train`.

    The choice is a hash of the name, so that it is the same everywhere and adding a document moves no other.
    """
    if work in HELD_OUT:
        return "test"
    digest = hashlib.sha256(f"{work}/{part}".encode()).digest()
    return "train" if int.from_bytes(digest[:8]) % VALIDATION_ONE_IN else "validation"
