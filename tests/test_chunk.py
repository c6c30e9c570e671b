import itertools
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, write_jsonl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from babygpt.chunk import TokenFile, find_chunks, index_tokens, write_tokens
from babygpt.corpus import load_corpus
from babygpt.tokenizer import get_tokenizer

# --- find_chunks


@st.composite
def files(draw):
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=60))
    tokens = np.ones(sum(lengths), dtype=np.uint16)
    tokens[np.cumsum(lengths) - 1] = 0
    return tokens


def slow_chunks(tokens, size, window):
    """The specification, one position at a time.

    The cut nearest to the cursor, the earlier of two, however far it has to look.
    """
    ends = [i + 1 for i, t in enumerate(tokens) if t == 0]
    start, rows, wide = 0, [], 0
    while start < len(tokens):
        cursor = start + size
        cuts = [e for e in ends if e > start]
        if cursor >= len(tokens) or not cuts:
            end = len(tokens)
        else:
            end = min(cuts, key=lambda e: (abs(e - cursor), e))
            wide += abs(end - cursor) > window
        rows.append([start, end])
        start = end
    return rows, wide


@settings(max_examples=500)
@given(files(), st.integers(1, 200), st.integers(0, 60))
@example(np.array([1, 0, 1, 1, 1, 0, 1, 0], dtype=np.uint16), 4, 2)
@pytest.mark.filterwarnings("ignore:.*windows")
def test_chunks_are_those_of_the_specification(tokens, size, window):
    rows, _ = slow_chunks(tokens, size, window)
    assert find_chunks(tokens, size, eot=0, window=window).tolist() == rows


@settings(max_examples=300)
@given(files(), st.integers(1, 200), st.integers(0, 60))
@pytest.mark.filterwarnings("ignore:.*windows")
def test_chunks_tile_and_close_documents(tokens, size, window):
    chunks = find_chunks(tokens, size, eot=0, window=window)
    assert chunks.dtype == np.int64
    assert chunks[0, 0] == 0 and chunks[-1, 1] == len(tokens)
    assert (chunks[1:, 0] == chunks[:-1, 1]).all()
    assert (chunks[:, 1] > chunks[:, 0]).all()
    assert (tokens[chunks[:, 1] - 1] == 0).all()
    if slow_chunks(tokens, size, window)[1] == 0:
        assert (np.abs(np.diff(chunks[:-1], axis=1) - size) <= window).all()


@pytest.mark.filterwarnings("ignore:.*windows")
def test_long_documents_in_a_memory_map_are_cut_at_their_nearest_end(tmp_path):
    """Ends so far from the cursor that the search has to look further several times,
    in a map that begins within a page."""
    lengths = np.random.default_rng(0).integers(1, 50_000, size=40)
    tokens = np.ones(5 + lengths.sum(), dtype=np.uint16)
    tokens[4 + np.cumsum(lengths)] = 0
    tokens.tofile(tmp_path / "long.bin")
    mapped = np.memmap(tmp_path / "long.bin", dtype=np.uint16, mode="r", offset=10)
    for size in (30_000, 100_000):
        for window in (100, 20_000):
            chunks = find_chunks(mapped, size, eot=0, window=window)
            assert chunks.tolist() == slow_chunks(tokens[5:], size, window)[0]


def test_a_window_without_a_document_end_is_widened_with_a_warning():
    tokens = np.ones(10_000, dtype=np.uint16)
    tokens[[3_999, 9_999]] = 0
    with pytest.warns(UserWarning, match="2 of 2 windows of ±10 tokens"):
        chunks = find_chunks(tokens, 3_000, eot=0, window=10)
    assert chunks.tolist() == [[0, 4_000], [4_000, 10_000]]


def test_no_document_end_at_all_is_an_error():
    with pytest.raises(ValueError, match="no end-of-text id 7 in 100 tokens"):
        find_chunks(np.ones(100, dtype=np.uint16), 10, eot=7, window=5)


def test_a_tail_without_a_document_end_is_not_lost():
    tokens = np.array([1, 0, 1, 1, 1, 1, 1, 1], dtype=np.uint16)
    with pytest.warns(UserWarning, match="1 of 2 windows"):
        assert find_chunks(tokens, 2, eot=0, window=0).tolist() == [[0, 2], [2, 8]]


def test_only_the_windows_are_read(tmp_path):
    """2 GB of sparse file: reading it all would allocate it in the page cache and take
    seconds; the windows are 40 kB each."""
    n, size = 1_000_000_000, 20_000_000
    path = tmp_path / "sparse.bin"
    with open(path, "wb") as f:
        f.truncate(2 * n)
    tokens = np.memmap(path, dtype=np.uint16, mode="r+")
    shifts = np.random.default_rng(0).integers(-9_000, 9_000, n // size - 1)
    places = np.arange(1, n // size) * size + shifts
    tokens[[*places, n - 1]] = 1

    class Counted:
        read = 0

        def __len__(self):
            return n

        def __getitem__(self, key):
            Counted.read += key.stop - key.start
            return tokens[key]

    chunks = find_chunks(Counted(), size, eot=1, window=20_000)
    assert set(chunks[:-1, 1]) <= set(places + 1) and chunks[-1, 1] == n
    assert Counted.read <= len(chunks) * 40_001


# --- write_tokens and TokenFile


class Docs(list):
    """A corpus in memory with an identity, so that writing it can be resumed."""

    id = "docs"

    def __init__(self, texts):
        super().__init__({"text": t} for t in texts)


def expected(enc, texts):
    ids = []
    for text in texts:
        ids += [*enc.encode_ordinary(text), enc.eot_token]
    return ids


def same_bytes(a, b):
    return a.read_bytes() == b.read_bytes()


@settings(max_examples=60)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8"), max_size=50), min_size=1, max_size=20
    ),
    limit=st.one_of(st.none(), st.integers(1, 300)),
)
def test_contents_index_and_counts(tmp_path_factory, gpt2, texts, limit):
    tf = write_tokens(
        Docs(texts), gpt2, tmp_path_factory.mktemp("t"), "train", limit_tokens=limit
    )
    if limit is not None:  # the document that reaches the limit is the last
        lengths = [len(gpt2.encode_ordinary(t)) + 1 for t in texts]
        below = [total < limit for total in itertools.accumulate(lengths)]
        texts = texts[: sum(below) + 1]
    assert tf.tokens.tolist() == expected(gpt2, texts)
    assert tf.tokens.dtype == np.dtype("<u2")
    assert tf.ends.tolist() == (np.flatnonzero(tf.tokens == 50256) + 1).tolist()
    assert tf.meta["documents"] == len(texts) and tf.meta["tokens"] == len(tf)
    assert tf.meta["bytes"] == sum(len(t.encode()) for t in texts)
    assert tf.meta["crc32"] == [zlib.crc32(tf.path.read_bytes())]


def test_special_tokens_in_a_text_are_text(tmp_path, gpt2):
    tf = write_tokens(Docs(["a<|endoftext|>b"]), gpt2, tmp_path, "train")
    assert tf.tokens.tolist() == [*gpt2.encode_ordinary("a<|endoftext|>b"), 50256]
    assert (np.asarray(tf.tokens) == 50256).sum() == 1


def test_nanogpts_layout_byte_for_byte(tmp_path, gpt2, polish):
    """nanoGPT: ids of all documents, each with end-of-text after it, as one np.uint16
    array written with tofile."""
    write_tokens(Docs(polish), gpt2, tmp_path, "train")
    np.array(expected(gpt2, polish), dtype=np.uint16).tofile(tmp_path / "nano.bin")
    assert same_bytes(tmp_path / "train.bin", tmp_path / "nano.bin")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "nano.bin").rename(tmp_path / "theirs/train.bin")
    theirs = index_tokens(tmp_path / "theirs", "train", gpt2)
    assert theirs[0:9].tolist() == expected(gpt2, polish)[:9]


def test_datatroves_layout_both_ways(tmp_path, gpt2, polish):
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile
    from datatrove.utils.dataset import DatatroveFileDataset

    ours = write_tokens(Docs(polish), gpt2, tmp_path / "ours", "train")
    theirs = TokenizedFile(str(tmp_path / "theirs"), "train.bin", token_size=2)
    for text in polish:
        theirs.write(expected(gpt2, [text]), None)
    theirs.close()
    for name in ("train.bin", "train.bin.index"):
        assert same_bytes(tmp_path / "theirs" / name, tmp_path / "ours" / name)
    assert (index_tokens(tmp_path / "theirs", "train", gpt2).ends == ours.ends).all()
    data = DatatroveFileDataset(
        str(ours.path), seq_len=127, token_size=2, return_positions=True
    )
    assert len(data) == len(ours) // 128
    ends = np.concatenate([[0], ours.ends.astype(int)])
    for i in (0, len(data) // 2, len(data) - 1):
        row = data[i]
        first, after = i * 128, (i + 1) * 128
        assert row["input_ids"].tolist() == ours[first:after].tolist()
        at = np.arange(first + 1, after)
        positions = at - ends[np.searchsorted(ends, at, "right") - 1]
        # they count a document begun earlier from the window's edge
        begun_here = ends[ends >= first]
        known = at >= begun_here[0] if begun_here.size else at < 0
        assert (row["positions"].numpy()[1:][known] == positions[known]).all()


def test_large_vocabularies_take_four_bytes(tmp_path, gpt2):
    import tiktoken

    ranks = {bytes([b]): b for b in range(256)}
    ranks |= {i.to_bytes(3, "big"): 256 + i for i in range(70_000)}
    big = tiktoken.Encoding(
        "big",
        pat_str=gpt2._pat_str,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 70_256},
    )
    tf = write_tokens(Docs(["ab", "c"]), big, tmp_path, "train")
    assert tf.tokens.dtype == np.dtype("<u4")
    assert tf.tokens.tolist() == [97, 98, 70_256, 99, 70_256]


def test_finished_files_are_reused_continued_or_refused(tmp_path, gpt2, polish):
    first = write_tokens(Docs(polish), gpt2, tmp_path, "train", limit_tokens=500)
    stamp = first.path.stat().st_mtime_ns
    again = write_tokens(Docs(polish), gpt2, tmp_path, "train", limit_tokens=400)
    assert again.path.stat().st_mtime_ns == stamp
    more = write_tokens(Docs(polish), gpt2, tmp_path, "train", limit_tokens=5_000)
    assert more.tokens[: len(first)].tolist() == first.tokens.tolist()
    assert len(more) >= 5_000
    full = write_tokens(Docs(polish), gpt2, tmp_path, "train")
    assert full.tokens.tolist() == expected(gpt2, polish)
    other = Docs(polish)
    other.id = "others"
    with pytest.raises(
        ValueError, match="train holds the tokens of docs, not of others"
    ):
        write_tokens(other, gpt2, tmp_path, "train")
    with pytest.raises(ValueError, match="another tokenizer than gpt2:300"):
        write_tokens(Docs(polish), get_tokenizer("gpt2:300"), tmp_path, "test")


def test_a_corpus_without_identity_is_written_anew(tmp_path, gpt2):
    for texts in (["a", "b"], ["c"]):
        tf = write_tokens([{"text": t} for t in texts], gpt2, tmp_path, "train")
        assert tf.tokens.tolist() == expected(gpt2, texts)


def test_an_empty_corpus_is_named(tmp_path, gpt2):
    with pytest.raises(ValueError, match="no documents in the corpus 'docs'"):
        write_tokens(Docs([]), gpt2, tmp_path, "train")


def test_threads_and_batches_do_not_change_the_bytes(tmp_path, gpt2, polish):
    texts = polish * 40  # several batches of a megabyte
    one = write_tokens(Docs(texts), gpt2, tmp_path / "1", "train", n_threads=1)
    four = write_tokens(Docs(texts), gpt2, tmp_path / "4", "train", n_threads=4)
    assert same_bytes(one.path, four.path)
    ids = np.frombuffer(one.path.read_bytes(), "<u2")
    assert ids.tolist() == expected(gpt2, polish) * 40


@pytest.fixture
def whole(tmp_path, gpt2, polish):
    return write_tokens(Docs(polish), gpt2, tmp_path, "train")


def test_missing_truncated_and_altered_files_are_named(whole, tmp_path):
    with pytest.raises(FileNotFoundError, match="no split 'test', only train"):
        TokenFile(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="nowhere/meta.json"):
        TokenFile(tmp_path / "nowhere", "train")
    data = whole.path.read_bytes()
    whole.path.write_bytes(data[:-2])
    with pytest.raises(
        ValueError,
        match=rf"train.bin has {len(data) - 2} bytes, meta.json says {len(data)}",
    ):
        TokenFile(tmp_path, "train")
    whole.path.write_bytes(data[:100] + bytes([data[100] ^ 4]) + data[101:])
    altered = TokenFile(tmp_path, "train")
    with pytest.raises(ValueError, match="block 0 .* does not match its checksum"):
        altered[0:10]
    whole.path.unlink()
    with pytest.raises(ValueError, match="train.bin is missing"):
        TokenFile(tmp_path, "train")


@settings(max_examples=60)
@given(where=st.floats(0, 1), what=st.sampled_from(['"', "x", "{", "9", ""]))
def test_a_damaged_meta_json_gives_a_clear_error(tmp_path_factory, gpt2, where, what):
    folder = tmp_path_factory.mktemp("m")
    write_tokens(Docs(["Ala ma kota"]), gpt2, folder, "train")
    meta = (folder / "meta.json").read_text()
    i = int(where * (len(meta) - 1))
    (folder / "meta.json").write_text(meta[:i] + what + meta[i + 1 :])
    try:
        TokenFile(folder, "train")[0:3]
    except (ValueError, FileNotFoundError) as e:
        assert str(folder) in str(e)


def test_ids_of_another_tokenizer_are_found(tmp_path):
    np.array([1, 2, 60_000, 3], dtype="<u2").tofile(tmp_path / "train.bin")
    with pytest.raises(ValueError, match="id 60000 at position 2, but gpt2 has 50257"):
        index_tokens(tmp_path, "train", get_tokenizer("gpt2"))
    (tmp_path / "train.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match="has 3 bytes, no uint16 ids"):
        index_tokens(tmp_path, "train", get_tokenizer("gpt2"))
    with pytest.raises(FileNotFoundError, match="index_tokens"):
        TokenFile(tmp_path, "train")


# --- killed and started again

WRITE = """
import sys, time
import babygpt.engine.tokenwriter as tokenwriter
from babygpt.corpus import load_corpus
from babygpt.tokenizer import get_tokenizer
# Small batches, a journal at each, never less than 2 s in all: kills land everywhere.
if sys.argv[3] == "slowly":
    part = tokenwriter._Part
    tokenwriter._batches.__defaults__, append = (50_000,), part.append
    def slowly(self, *a):
        append(self, *a); self.sync(); time.sleep(0.02)
    part.append = slowly
corpus, enc = load_corpus(sys.argv[1]), get_tokenizer("gpt2:1000")
print("begin", flush=True)
tokenwriter.write_tokens(corpus, enc, sys.argv[2], "train")
"""


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, polish):
    source = tmp_path / "docs.jsonl"
    texts = [f"{i} {t}" for i in range(150) for t in polish]
    write_jsonl(source, [{"text": text} for text in texts])
    enc = get_tokenizer("gpt2:1000")
    straight = write_tokens(
        load_corpus(str(source)), enc, tmp_path / "straight", "train"
    )
    rng, kills, resumed_at = np.random.default_rng(0), 0, []
    while True:
        worker = subprocess.Popen(
            [sys.executable, "-c", WRITE, source, tmp_path / "killed", "slowly"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        worker.stdout.readline()
        try:
            worker.wait(timeout=rng.uniform(0.05, 0.5))
            assert worker.returncode == 0
            break
        except subprocess.TimeoutExpired:
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            kills += 1
            final = tmp_path / "killed/train.bin"
            if final.exists():  # killed in its last moment: what has this name is whole
                assert same_bytes(final, straight.path)
            journal = tmp_path / "killed/train.part.json"
            if journal.exists():
                resumed_at.append(json.loads(journal.read_text())["documents"])
    again = TokenFile(tmp_path / "killed", "train")
    assert kills >= 4, (kills, resumed_at)
    assert resumed_at == sorted(resumed_at) and len(set(resumed_at)) >= 3, resumed_at
    names = ["meta.json", "train.bin", "train.bin.index"]
    for name in names:
        assert same_bytes(tmp_path / "killed" / name, tmp_path / "straight" / name)
    again.verify()
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == names
    assert len(straight) == len(again)


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_killed_while_the_files_are_moved_into_place(
    tmp_path, gpt2, polish, renamed, monkeypatch
):
    straight = write_tokens(Docs(polish), gpt2, tmp_path / "a", "train")

    class Killed(Exception):
        pass

    moves, replace = [], Path.replace

    def stop(self, target):
        if self.name.endswith(".part") or target.name == "meta.json":
            if len(moves) == renamed:
                raise Killed
            moves.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", stop)
        write_tokens(Docs(polish), gpt2, tmp_path / "b", "train")
    again = write_tokens(Docs(polish), gpt2, tmp_path / "b", "train")
    assert same_bytes(again.path, straight.path) and again.meta == straight.meta
    again.verify()


def test_parts_without_a_journal_are_not_taken_for_the_file_that_is_continued(
    tmp_path, gpt2, polish
):
    write_tokens(Docs(polish), gpt2, tmp_path, "train", limit_tokens=500)
    for name in ("train.bin.part", "train.bin.index.part"):
        # as a kill in another attempt would leave it
        (tmp_path / name).write_bytes(b"\1" * 100_000)
    again = write_tokens(Docs(polish), gpt2, tmp_path, "train")
    assert again.tokens.tolist() == expected(gpt2, polish)


def test_begun_from_another_corpus_it_does_not_go_on(tmp_path, gpt2):
    journal = dict(corpus="other", documents=0, tokens=0, bytes=0, crc32=[])
    journal["exhausted"] = False
    (tmp_path / "train.part.json").write_text(json.dumps(journal))
    with pytest.raises(ValueError, match="begun from other, not from docs"):
        write_tokens(Docs(["a"]), gpt2, tmp_path, "train")


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="reads Linux' peak memory"
)
def test_memory_does_not_grow_with_the_corpus(tmp_path, polish):
    peaks = {}
    code = f"""{WRITE}
import resource
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    once = tmp_path / "once.jsonl"
    write_jsonl(once, [{"text": text} for text in polish])
    for mb in (5, 40):
        source = tmp_path / f"{mb}.jsonl"
        with open(source, "wb") as f:
            while f.tell() < mb << 20:
                f.write(once.read_bytes())
        out = subprocess.run(
            [sys.executable, "-c", code, source, tmp_path / str(mb), "no"],
            text=True,
            capture_output=True,
            cwd=ROOT,
        ).stdout
        peaks[mb] = int(out.split()[-1])
    # MB; the text itself would be 35 MB more, its ids as Python ints 500
    assert peaks[40] < peaks[5] + 40, peaks
