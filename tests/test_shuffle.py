import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.shuffle import Lanes, shuffle_chunks


def chunks_of(lengths):
    ends = np.cumsum(lengths)
    return np.stack([ends - lengths, ends], axis=1).astype(np.int64)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=50),
    st.integers(0, 2**31),
    st.integers(0, 5),
)
def test_shuffle_is_a_permutation_and_pure(lengths, seed, epoch):
    chunks = chunks_of(np.array(lengths))
    once, twice = (shuffle_chunks(chunks, seed, epoch) for _ in range(2))
    assert (once == twice).all() and sorted(once.tolist()) == chunks.tolist()


def test_epochs_and_seeds_differ():
    chunks = chunks_of(np.ones(50, dtype=int))
    orders = set()
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        order = shuffle_chunks(chunks, seed, epoch)[:, 0].tolist()
        assert order != sorted(order)
        orders.add(tuple(order))
    assert len(orders) == 4


@st.composite
def lanes(draw):
    n_lanes = draw(st.sampled_from([1, 2, 4, 8]))
    rows = draw(st.integers(1, 3))
    block = draw(st.integers(1, 8))
    lengths = draw(st.lists(st.integers(1, 200), min_size=1, max_size=20))
    lengths = np.array(lengths + [n_lanes * rows * block + 1])  # so that one batch fits
    tokens = np.arange(lengths.sum(), dtype=np.uint16)
    shape = dict(n_lanes=n_lanes, rows=rows, block_size=block)
    shape["seed"] = draw(st.integers(0, 99))
    return tokens, chunks_of(lengths), shape


@settings(max_examples=200)
@given(lanes())
def test_every_token_is_an_input_exactly_once_an_epoch(made):
    tokens, chunks, shape = made
    ln = Lanes(tokens, chunks, **shape)
    left = []
    for epoch in range(2):
        steps = range(epoch * ln.steps_per_epoch, (epoch + 1) * ln.steps_per_epoch)
        seen = torch.cat([ln.batch(s)[0].flatten() for s in steps]).numpy()
        assert len(np.unique(seen)) == len(seen)
        left.append(set(tokens.tolist()) - set(seen.tolist()))
        assert len(left[-1]) <= ln.tokens_per_step + 1
    assert ln.tokens_per_step == shape["n_lanes"] * shape["rows"] * shape["block_size"]


@settings(max_examples=200)
@given(lanes(), st.integers(0, 1000))
def test_a_batch_is_a_slice_of_the_shuffled_stream(made, step):
    tokens, chunks, shape = made
    ln = Lanes(tokens, chunks, **shape)
    x, y = ln.batch(step)
    epoch, s = divmod(step, ln.steps_per_epoch)
    shuffled = shuffle_chunks(chunks, shape["seed"], epoch)
    stream = np.concatenate([tokens[a:b] for a, b in shuffled])
    n_lanes, n_rows, block = shape["n_lanes"], shape["rows"], shape["block_size"]
    n = n_rows * block
    for lane in range(n_lanes):
        at = (lane * ln.steps_per_epoch + s) * n
        rows = slice(lane * n_rows, (lane + 1) * n_rows)
        assert x[rows].flatten().tolist() == stream[at : at + n].tolist()
        assert y[rows].flatten().tolist() == stream[at + 1 : at + n + 1].tolist()
    assert x.dtype == y.dtype == torch.int64
    assert x.shape == y.shape == (n_lanes * n_rows, block)


@settings(max_examples=100)
@given(lanes(), st.lists(st.integers(0, 300), min_size=1, max_size=5))
def test_any_number_of_processes_sees_the_same_batch(made, steps):
    tokens, chunks, shape = made
    whole = Lanes(tokens, chunks, **shape)
    n = shape["n_lanes"]
    for world in (1, 2, 4, 8):
        if n % world:
            continue
        # each process has its own, and asks in its own order
        ranks = [Lanes(tokens, chunks, **shape) for _ in range(world)]
        for step in reversed(steps):
            xs, ys = [], []
            for i, rank in enumerate(ranks):
                x, y = rank.batch(step, range(i * n // world, (i + 1) * n // world))
                xs.append(x)
                ys.append(y)
            x, y = whole.batch(step)
            assert torch.equal(torch.cat(xs), x) and torch.equal(torch.cat(ys), y)


def test_leftovers_differ_from_epoch_to_epoch():
    tokens, chunks = np.arange(1050), chunks_of(np.full(21, 50))
    ln = Lanes(tokens, chunks, n_lanes=2, rows=1, block_size=100, seed=0)
    left = []
    for epoch in range(3):
        first = epoch * ln.steps_per_epoch
        steps = range(first, first + ln.steps_per_epoch)
        seen = torch.cat([ln.batch(step)[0].flatten() for step in steps])
        left.append(frozenset(tokens.tolist()) - frozenset(seen.tolist()))
    assert len(set(left)) == 3 and all(len(x) == 50 for x in left)


def test_too_little_text_and_wrong_lanes_are_named():
    shape = dict(rows=2, block_size=4, seed=0)
    batch = r"one batch of 8 lanes · 2 rows · 4 tokens \+ 1 target"
    with pytest.raises(ValueError, match=f"64 tokens do not fill {batch}"):
        Lanes(np.zeros(64), np.array([[0, 64]]), **shape)
    enough = Lanes(np.zeros(65), np.array([[0, 65]]), **shape)
    assert enough.steps_per_epoch == 1
    with pytest.raises(ValueError, match="lane 8: there are 8"):
        enough.batch(0, [8])


def test_batches_from_a_token_file_are_checked(tmp_path, gpt2, polish):
    from babygpt.chunk import TokenFile, find_chunks, write_tokens

    tf = write_tokens([{"text": t} for t in polish], gpt2, tmp_path, "train")
    chunks = find_chunks(tf.tokens, 1000, tf.eot, 500)
    shape = dict(rows=1, block_size=64, seed=0)
    assert Lanes(tf, chunks, **shape).batch(3)[0].max() < gpt2.n_vocab
    data = bytearray(tf.path.read_bytes())
    data[7] ^= 1
    tf.path.write_bytes(data)
    with pytest.raises(ValueError, match="does not match its checksum"):
        Lanes(TokenFile(tmp_path, "train"), chunks, **shape).batch(0)


def test_a_batch_is_read_in_slices_not_token_by_token():
    class Counted:
        def __init__(self, tokens):
            self.tokens, self.reads = tokens, 0

        def __getitem__(self, key):
            assert isinstance(key, slice)
            self.reads += 1
            return self.tokens[key]

    tokens = Counted(np.arange(100_000, dtype=np.uint16))
    chunks = chunks_of(np.full(20, 5_000))
    ln = Lanes(tokens, chunks, n_lanes=8, rows=4, block_size=64, seed=0)
    for step in range(ln.steps_per_epoch):
        ln.batch(step)
    # one a lane and step, one more where a chunk ends
    assert tokens.reads <= ln.steps_per_epoch * 8 + 2 * 20
