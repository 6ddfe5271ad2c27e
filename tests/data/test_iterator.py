"""One order of batches, whatever the hosts, stops and packers."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmzoo.data import Mixture, TextIterator, merge_states
from fmzoo.errors import InputError
from fmzoo.text import ByteTokenizer
from fmzoo.text.packing import PACKERS

# Every character of the corpus tells its document: row contents can be traced back.
DOCUMENTS = [chr(0x100 + i) * (1 + (7 * i) % 23) for i in range(45)]
MIXTURE = Mixture({"a": DOCUMENTS[:20], "b": DOCUMENTS[20:]}, {"a": 2, "b": 1})
packings = pytest.mark.parametrize("packing", PACKERS)


def iterator(documents=DOCUMENTS, **changes):
    return TextIterator(documents, ByteTokenizer(), **({"batch_size": 8, "length": 12, "seed": 5} | changes))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(left, right):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in zip(left, right, strict=True)
    )


def through_json(state):
    return json.loads(json.dumps(state))


def joined(hosts, count):
    """The global batches of several hosts, their rows put together."""
    parts = [take(host, count) for host in hosts]
    return [{k: np.concatenate([p[i][k] for p in parts]) for k in parts[0][i]} for i in range(count)]


def hosts_of(count, **changes):
    return [iterator(rows=range(8 * h // count, 8 * (h + 1) // count), **changes) for h in range(count)]


def test_batch_fields():
    batch = next(iterator())
    assert {name: (a.dtype.name, a.shape) for name, a in batch.items()} == {
        **dict.fromkeys(("inputs", "targets", "positions", "segment_ids"), ("int32", (8, 12))),
        "weights": ("float32", (8, 12)),
        "example_id": ("int32", (8,)),
    }


def test_example_ids_count_the_global_stream_and_wrap():
    batches = iterator(rows=range(2, 5))
    assert [b["example_id"].tolist() for b in take(batches, 2)] == [[2, 3, 4], [10, 11, 12]]
    assert batches.examples == 16
    state = batches.get_state()
    state["examples"] = 2**31 - 8
    batches.set_state(state)
    assert [b["example_id"].tolist() for b in take(batches, 2)] == [[2**31 - 6, 2**31 - 5, 2**31 - 4], [2, 3, 4]]


@packings
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("documents", [DOCUMENTS, MIXTURE], ids=["one", "mixture"])
def test_the_number_of_hosts_changes_nothing(packing, count, documents):
    whole = take(iterator(documents, packing=packing), 40)
    assert same(joined(hosts_of(count, documents=documents, packing=packing), 40), whole)


@packings
def test_uneven_ranges_change_nothing(packing):
    hosts = [iterator(rows=rows, packing=packing) for rows in (range(0, 1), range(1, 7), range(7, 8))]
    assert same(joined(hosts, 15), take(iterator(packing=packing), 15))


@packings
@given(before=st.integers(0, 30), after=st.integers(1, 10))
@settings(deadline=None, max_examples=25)
def test_resumes_bit_for_bit_at_any_batch(packing, before, after):
    batches = iterator(packing=packing)
    take(batches, before)
    state = through_json(batches.get_state())
    expected = take(batches, after)
    other = iterator(packing=packing)
    take(other, 3)  # whatever it had read is forgotten
    other.set_state(state)
    assert other.examples == 8 * before
    assert same(take(other, after), expected)
    assert other.get_state() == batches.get_state()


@packings
@pytest.mark.parametrize(("hosts_before", "hosts_after"), [(1, 4), (2, 1), (4, 2), (2, 8)])
def test_goes_on_with_another_number_of_hosts(packing, hosts_before, hosts_after):
    whole = take(iterator(MIXTURE, packing=packing), 30)
    before = hosts_of(hosts_before, documents=MIXTURE, packing=packing)
    joined(before, 17)
    state = through_json(merge_states([through_json(host.get_state()) for host in reversed(before)]))
    after = hosts_of(hosts_after, documents=MIXTURE, packing=packing)
    for host in after:
        host.set_state(state)
    assert same(joined(after, 13), whole[17:])
    assert merge_states([host.get_state() for host in after])["examples"] == 8 * 30


def test_merged_state_of_one_host_is_its_state():
    batches = iterator()
    take(batches, 4)
    assert merge_states([batches.get_state()]) == batches.get_state()


def test_a_state_is_a_snapshot():
    batches = iterator(packing="first_fit")
    take(batches, 3)
    state = batches.get_state()
    kept = copy.deepcopy(state)
    take(batches, 3)
    assert state == kept


@packings
def test_every_document_is_read_once_an_epoch(packing):
    """Over what the streams have finished, each document's targets occur once for each epoch."""
    single = iterator(packing=packing, batch_size=1, length=10)
    pairs = sum(len(document.encode()) + 1 for document in DOCUMENTS)
    targets = [int(t) for b in take(single, pairs) for t, w in zip(b["targets"][0], b["weights"][0], strict=True) if w]
    ends = targets.count(257)
    assert ends >= 2 * len(DOCUMENTS)
    if packing == "concatenate_and_split":  # the documents come one after the other
        text = ByteTokenizer().decode_bytes(targets).decode("utf-8", "ignore")
        epoch = sum(map(len, DOCUMENTS))
        assert sorted(text[:epoch]) == sorted(text[epoch : 2 * epoch]) == sorted("".join(DOCUMENTS))
        assert text[:epoch] != text[epoch : 2 * epoch]


@packings
def test_streams_share_the_documents_of_an_epoch(packing):
    """The first documents of the streams are different ones while there are enough."""
    first = take(iterator(packing=packing, batch_size=40, length=2), 1)[0]
    begun = {ByteTokenizer().decode(row[:1].tolist() + row[1:].tolist()) for row in first["targets"]}
    assert len(begun) == 40


def test_one_long_document_gives_different_rows():
    text = "".join(chr(0x4E00 + i) for i in range(2000))
    batch = next(iterator([text], batch_size=16))
    assert len({row.tobytes() for row in batch["inputs"]}) == 16
    halves = iterator([text], batch_size=16, rows=range(8, 16))
    assert np.array_equal(next(halves)["inputs"], batch["inputs"][8:])


def test_seeds_choose_the_order():
    assert not same(take(iterator(seed=1), 3), take(iterator(seed=2), 3))


def test_concatenated_rows_have_no_padding_and_first_fit_keeps_documents_whole():
    assert all(np.all(b["weights"] == 1) for b in take(iterator(), 20))
    for batch in take(iterator(packing="first_fit", length=70), 20):
        for row, weights in zip(batch["inputs"], batch["weights"], strict=True):
            assert row[0] == ByteTokenizer.bos_id  # documents of at most 69 tokens are never continued
            assert 0 < weights.sum() <= 70


def test_documents_are_tokenised_when_needed():
    class Counting(ByteTokenizer):
        seen = 0

        def encode(self, text):
            Counting.seen += len(text)
            return super().encode(text)

    batches = TextIterator(DOCUMENTS * 50, Counting(), batch_size=2, length=8)
    take(batches, 5)
    assert Counting.seen < 400
    assert len(batches._streams._encoded) <= 2


def test_streams_pickle_without_their_tokens():
    streams = iterator()._streams
    expected = streams.next()
    copied = pickle.loads(pickle.dumps(iterator()._streams))
    assert copied._encoded == {}
    assert same([copied.next()], [expected])


def test_a_token_id_out_of_range_is_refused_and_nothing_moves():
    batches = iterator(["abc", "def", "xyzz"], batch_size=2, length=4, vocab_size=257)
    before = batches.get_state()
    with pytest.raises(InputError, match="token id 257 is not under the vocab_size 257"):
        next(batches)
    assert batches.get_state() == before


def test_a_corpus_shorter_than_a_sequence_is_refused():
    with pytest.raises(InputError, match="data has 8 tokens to predict in all; at least one sequence of 12 is needed"):
        iterator(["abc", "", "de"])
    with pytest.raises(InputError, match="data has 0 tokens"):
        iterator([])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 0, "rows": range(0)}, "batch_size is 0; at least 1"),
        ({"length": 0}, "length is 0; at least 1"),
        ({"workers": -1}, "workers is -1; at least 0"),
        ({"rows": range(6, 9)}, "within the 8 rows"),
        ({"rows": range(3, 3)}, "within the 8 rows"),
        ({"rows": range(0, 8, 2)}, "within the 8 rows"),
        ({"packing": "first-fit"}, "packing is 'first-fit'; the nearest are first_fit"),
    ],
)
def test_bad_arguments(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        iterator(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"length": 13}, "has length 12; this run's 13"),
        ({"batch_size": 16}, "has batch_size 8; this run's 16"),
        ({"seed": 6}, "has seed 5; this run's 6"),
        ({"packing": "first_fit"}, "has packing 'concatenate_and_split'"),
        ({"documents": DOCUMENTS[:40]}, "has documents 45; this run's 40"),
        ({"documents": [*DOCUMENTS[:44], "other"]}, "has digest "),
        ({"documents": MIXTURE}, "has documents 45"),
    ],
)
def test_a_state_of_other_streams_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        iterator(**changes).set_state(iterator().get_state())


def test_damaged_states_are_refused():
    good = iterator().get_state()
    with pytest.raises(InputError, match="lacks row 4; merge the states of all hosts"):
        iterator().set_state(iterator(rows=range(4)).get_state())
    for bad in (None, {}, good | {"examples": "x"}, good | {"rows": {"x": []}}):
        with pytest.raises(InputError, match="iterator state is damaged"):
            iterator().set_state(bad)
    for cursor in (None, [1], [0, -1, []], [0, 0, [[[1, 2]]]], [0, 0.5, []]):
        target = iterator()
        with pytest.raises(InputError, match="has the cursor"):
            target.set_state(good | {"rows": good["rows"] | {"3": cursor}})
        assert target.get_state() == good


def test_states_that_do_not_belong_together_are_not_merged():
    first, second = iterator(rows=range(4)), iterator(rows=range(4, 8))
    with pytest.raises(InputError, match="there are none"):
        merge_states([])
    take(first, 1)
    with pytest.raises(InputError, match="differ in examples"):
        merge_states([first.get_state(), second.get_state()])
    with pytest.raises(InputError, match="differ in streams"):
        merge_states([iterator(seed=1).get_state(), iterator(seed=2).get_state()])
    moved = second.get_state()
    moved["rows"]["5"] = [9, 9, []]
    with pytest.raises(InputError, match="differ in row 5"):
        merge_states([second.get_state(), moved])
