"""Every pair of every document once and in order, nothing across documents, padding that counts for nothing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo.errors import InputError
from fmzoo.text.packing import (
    PACKERS,
    Cursor,
    Piece,
    concatenate_and_split,
    concatenate_row,
    fill_row,
    first_fit,
    first_fit_row,
)

documents_of = st.lists(st.integers(0, 30), max_size=25).map(
    lambda sizes: [1000 * number + 1 + np.arange(size) for number, size in enumerate(sizes)]
)
packers = pytest.mark.parametrize("pack", [concatenate_and_split, first_fit, lambda d, t: first_fit(d, t, 2)])


def segments(rows):
    """Each segment as (inputs, targets), row by row."""
    for row in rows:
        for segment in range(1, row["segment_ids"].max() + 1):
            inside = row["segment_ids"] == segment
            assert np.array_equal(row["positions"][inside], np.arange(inside.sum()))
            assert np.all(row["weights"][inside] == 1)
            yield row["inputs"][inside], row["targets"][inside]


@packers
@given(documents=documents_of, length=st.integers(1, 12))
@settings(deadline=None, max_examples=150)
def test_every_pair_stands_once_in_its_documents_order(pack, documents, length):
    pairs = {}
    for inputs, targets in segments(pack(documents, length)):
        assert len({int(i) // 1000 for i in [*inputs - 1, *targets - 1]}) == 1  # no target of another document
        pairs.setdefault(int(inputs[0] - 1) // 1000, []).extend(zip(inputs.tolist(), targets.tolist(), strict=True))
    expected = {
        number: list(zip(document[:-1].tolist(), document[1:].tolist(), strict=True))
        for number, document in enumerate(documents)
        if len(document) > 1
    }
    assert pairs == expected


@packers
@given(documents=documents_of, length=st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_rows_have_one_shape_and_silent_padding(pack, documents, length):
    for row in pack(documents, length):
        assert {name: (a.dtype.name, a.shape) for name, a in row.items()} == {
            "inputs": ("int32", (length,)),
            "targets": ("int32", (length,)),
            "positions": ("int32", (length,)),
            "segment_ids": ("int32", (length,)),
            "weights": ("float32", (length,)),
        }
        padding = row["segment_ids"] == 0
        assert all(not np.any(array[padding]) for array in row.values())
        assert not np.any(padding[:-1] & ~padding[1:])  # at the end of the row


@given(documents=documents_of, length=st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_only_the_last_concatenated_row_is_padded(documents, length):
    rows = list(concatenate_and_split(documents, length))
    assert all(np.all(row["segment_ids"] > 0) for row in rows[:-1])


@given(documents=documents_of, length=st.integers(1, 12), open_rows=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_first_fit_splits_only_documents_longer_than_a_row(documents, length, open_rows):
    pieces = [len(inputs) for inputs, _ in segments(first_fit(documents, length, open_rows))]
    expected = [part for d in documents for part in np.diff([*range(0, max(len(d) - 1, 0), length), len(d) - 1])]
    assert sorted(pieces) == sorted(int(p) for p in expected if p > 0)


def test_a_row_by_hand():
    first, second = concatenate_and_split([[7, 8, 9, 1], [5, 1]], 3)
    assert first["inputs"].tolist() == [7, 8, 9]
    assert first["targets"].tolist() == [8, 9, 1]
    assert second["inputs"].tolist() == [5, 0, 0]
    assert second["targets"].tolist() == [1, 0, 0]
    assert second["weights"].tolist() == [1, 0, 0]


def test_a_document_continued_in_the_next_row_starts_at_position_zero():
    rows = list(concatenate_and_split([[1, 2], [3, 4, 5, 6, 7]], 3))
    assert rows[0]["positions"].tolist() == [0, 0, 1]
    assert rows[0]["segment_ids"].tolist() == [1, 2, 2]
    assert rows[1]["positions"].tolist() == [0, 1, 0]
    assert rows[1]["segment_ids"].tolist() == [1, 1, 0]


def test_first_fit_fills_an_earlier_row_before_it_opens_another():
    rows = list(first_fit([range(5), range(4), range(2)], 5))  # 4, 3 and 1 pairs
    assert [row["segment_ids"].tolist() for row in rows] == [[1, 1, 1, 1, 2], [1, 1, 1, 0, 0]]


@pytest.mark.parametrize("plan", PACKERS.values(), ids=PACKERS)
@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=12), length=st.integers(1, 8), stop=st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_a_cursor_that_went_through_json_resumes_the_plan(plan, sizes, length, stop):
    def size(document):
        return sizes[document] if document < len(sizes) else None

    def rest(cursor):
        planned = []
        while (row := plan(cursor, size, length))[0]:
            planned.append(row[0])
            cursor = row[1]
        return planned

    cursor = Cursor()
    whole = rest(cursor)
    for _ in range(min(stop, len(whole))):
        _, cursor = plan(cursor, size, length)
    document, offset, rows = json.loads(json.dumps(cursor))
    thawed = Cursor(document, offset, tuple(tuple(Piece(*piece) for piece in row) for row in rows))
    assert rest(thawed) == whole[min(stop, len(whole)) :]


def test_planning_does_not_change_the_cursor():
    cursor = Cursor(0, 0, ((Piece(9, 0, 2),),))
    first_fit_row(cursor, lambda _: 1, 4)
    concatenate_row(cursor, lambda _: 1, 4)
    assert cursor == Cursor(0, 0, ((Piece(9, 0, 2),),))


def test_fill_row_reads_only_its_pieces():
    row = fill_row((Piece(3, 1, 3),), {3: [10, 11, 12, 13, 14]}.__getitem__, 2)
    assert row["inputs"].tolist() == [11, 12]
    assert row["targets"].tolist() == [12, 13]


@pytest.mark.parametrize("pack", [concatenate_and_split, first_fit])
def test_a_row_of_no_pairs_is_refused(pack):
    with pytest.raises(InputError, match="length is 0; a row of at least 1 pair"):
        pack([[1, 2]], 0)


def test_no_open_row_is_refused():
    with pytest.raises(InputError, match="open_rows is 0; at least 1"):
        first_fit([[1, 2]], 4, 0)
