import hashlib
import math
import shutil
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from conftest import ROOT, python
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from babygpt.corpus import load_parallel
from babygpt.tokenizer import (
    bits_per_byte,
    get_tokenizer,
    inflation,
    save_tokenizer,
    show_tokens,
    token_bytes,
    tokenizer_sha256,
    train_bpe,
)

TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("aąbcćdeęłńóśźż AĄ\n\t.,'–„”0123 "),
    ),
    max_size=200,
)
SPOKEN = TEXTS.filter(str.strip)

get_cached, token_sizes = cache(get_tokenizer), cache(token_bytes)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """tiktoken's own r50k_base (GPT-2's vocabulary), found in its cache, not on the
    network."""
    cache = tmp_path_factory.mktemp("tiktoken")
    whisper = find_spec("whisper").submodule_search_locations[0]
    source = Path(whisper, "assets/gpt2.tiktoken")
    import tiktoken_ext.openai_public as public

    words = [c for c in public.r50k_base.__code__.co_consts if isinstance(c, str)]
    url = next(word for word in words if word.endswith("r50k_base.tiktoken"))
    shutil.copy(source, cache / hashlib.sha1(url.encode()).hexdigest())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        yield tiktoken.get_encoding("r50k_base")


@pytest.fixture(scope="module")
def bpe(polish):
    return train_bpe(polish, 800)


def test_gpt2_gives_tiktokens_own_ids(theirs, gpt2, polish):
    assert gpt2.n_vocab == theirs.n_vocab == 50257
    assert gpt2.eot_token == theirs.eot_token == 50256
    for text in polish + [p.en for p in load_parallel()]:
        assert gpt2.encode_ordinary(text) == theirs.encode_ordinary(text)


@settings(max_examples=200)
@given(TEXTS)
def test_every_vocabulary_spells_every_text(bpe, text):
    for enc in (*map(get_cached, ("gpt2", "whisper", "whisper:300")), bpe):
        ids = enc.encode_ordinary(text)
        assert enc.decode_bytes(ids) == text.encode() and enc.eot_token not in ids
        assert token_sizes(enc)[ids].sum() == len(text.encode())


def test_polish_of_the_facts_sheet(gpt2):
    pieces = [gpt2.decode([i]) for i in gpt2.encode_ordinary("przyjaciół")]
    assert pieces == ["pr", "zy", "jac", "i", "ó", "ł"]
    single = [c for c in "ąćęłńóśźżĄĆĘŁŃÓŚŹŻ" if len(gpt2.encode_ordinary(c)) == 1]
    assert single == ["ć", "ł", "ó"]


def test_sizes_and_ends():
    sizes = {"gpt2": 50257, "whisper": 50257, "gpt2:4096": 4096, "whisper:257": 257}
    for name, n in sizes.items():
        enc = get_tokenizer(name)
        assert (enc.n_vocab, enc.eot_token, enc.name) == (n, n - 1, name)
        assert enc.encode("<|endoftext|>", allowed_special="all") == [n - 1]
    full, cut = get_tokenizer("gpt2"), get_tokenizer("gpt2:4096")
    ids = range(4095)
    assert cut.decode_tokens_bytes(ids) == full.decode_tokens_bytes(ids)


@pytest.mark.parametrize(
    "name",
    ["gpt3", "gpt2:", "gpt2:256", "gpt2:99999", "gpt2:x", "whisper:-1", "/nowhere"],
)
def test_unknown_names(name):
    if name == "gpt2:":
        assert get_tokenizer(name).n_vocab == 50257  # no size is the whole
    else:
        with pytest.raises(ValueError, match="tokenizer"):
            get_tokenizer(name)


def test_a_vocabulary_that_cannot_be_fetched_is_named(monkeypatch):
    def offline(name):
        raise OSError("Name or service not known")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    message = "cannot fetch o200k_base: .*'gpt2' and 'whisper' need no network"
    with pytest.raises(ConnectionError, match=f"tiktoken {message}"):
        get_tokenizer("o200k_base")


def test_trained_bpe_merges_the_most_frequent_pair_first():
    enc = train_bpe(["kotek kotek kotek ab"], 262)
    assert enc.n_vocab <= 262 and enc.encode_ordinary("kotek")[0] >= 256
    with pytest.raises(ValueError, match="at least 257"):
        train_bpe(["a"], 100)
    with pytest.raises(ValueError, match="empty"):
        train_bpe([], 300)


def test_small_text_gives_fewer_ids():
    enc = train_bpe(["aaaa"], 10_000)
    assert enc.eot_token == enc.n_vocab - 1 < 300


@settings(max_examples=300)
@given(text=TEXTS)
def test_saved_files_give_the_same_ids(bpe, saved, text):
    again, hf = saved
    ids = bpe.encode_ordinary(text)
    assert again.encode_ordinary(text) == ids == hf.encode(text).ids


@pytest.fixture(scope="module")
def saved(bpe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok")
    save_tokenizer(bpe, folder)
    files = sorted(p.name for p in folder.iterdir())
    assert files == ["ranks.tiktoken", "tokenizer.json"]
    hf = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return get_tokenizer(str(folder)), hf


@pytest.mark.parametrize("name", ["gpt2:2000", "whisper:2000"])
def test_tokenizer_json_of_others_gives_the_same_ids(name, tmp_path, polish):
    enc = get_tokenizer(name)
    save_tokenizer(enc, tmp_path)
    hf = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert all(hf.encode(t).ids == enc.encode_ordinary(t) for t in polish)
    assert hf.token_to_id("<|endoftext|>") == enc.eot_token
    assert hf.get_vocab_size() == enc.n_vocab
    assert tokenizer_sha256(get_tokenizer(str(tmp_path))) == tokenizer_sha256(enc)


def test_a_damaged_rank_file_is_refused(bpe, tmp_path):
    save_tokenizer(bpe, tmp_path)
    path = tmp_path / "ranks.tiktoken"
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (
        b"".join(lines[:200]),
        b"".join(lines[:400] + lines[401:]),
        b"garbage\n",
        b"!!!! 0\n",
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="ranks.tiktoken"):
            get_tokenizer(str(tmp_path))


def test_whisper_is_not_imported():
    code = """
import sys
from babygpt.tokenizer import get_tokenizer
get_tokenizer("whisper")
print("whisper" in sys.modules)
"""
    done = python("-c", code)
    assert done.stdout.split()[-1] == "False"


@settings(max_examples=25)
@given(st.lists(st.tuples(SPOKEN, SPOKEN), min_size=1, max_size=8))
def test_inflation_against_a_plain_count(pairs):
    enc = get_cached("gpt2")
    ours = [len(enc.encode_ordinary(text)) for text, _ in pairs]
    others = [len(enc.encode_ordinary(text)) for _, text in pairs]
    n_words = sum(len(text.split()) for text, _ in pairs)
    n_bytes = sum(len(text.encode()) for text, _ in pairs)
    found = inflation(pairs, enc)
    assert math.isclose(found.premium, sum(ours) / sum(others))
    assert found.n == len(pairs)
    assert math.isclose(found.fertility, sum(ours) / n_words)
    assert math.isclose(found.bytes_per_token, n_bytes / sum(ours))
    ratios = [a / b for a, b in zip(ours, others)]
    low, high = found.premium_ci
    assert min(ratios) - 1e-9 <= low <= high <= max(ratios) + 1e-9


def test_premium_is_a_ratio_of_sums_not_a_mean_of_ratios():
    enc = get_cached("gpt2")
    short, long = ("ł ł ł ł", "a"), (" the" * 100, " the" * 100)
    mean = np.mean([inflation([pair], enc).premium for pair in (short, long)])
    assert inflation([short, long], enc).premium < 1.1 < mean


def test_bits_per_byte_of_a_uniform_guess():
    assert bits_per_byte(math.log(256) * 10, 10) == pytest.approx(8)


REAL = ROOT.parent / "shared"  # real text where it is at hand


@pytest.mark.skipif(
    not (REAL / "data/hub").is_dir(), reason="needs the development data"
)
def test_bytes_per_token_of_real_polish(gpt2):
    import pyarrow.parquet as pq

    folder = REAL / "data/hub/HuggingFaceFW/fineweb-2/data/pol_Latn/test"
    (path,) = folder.glob("*.parquet")
    texts = pq.read_table(path)["text"].to_pylist()
    found = inflation([(t, t) for t in texts], gpt2)
    assert found.premium == 1 and 1.9 < found.bytes_per_token < 2.4


class Spans(HTMLParser):
    """The titles of a view's tokens, and its text as a reader sees it."""

    def __init__(self, html):
        super().__init__()
        self.titles, self.text, self.open = [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        attrs = dict(attrs)
        self.open.append((tag, attrs))
        if "title" in attrs:
            self.titles.append(attrs["title"])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open[-1][0] == "span" and "title" in self.open[-1][1]:
            self.text += data


@settings(max_examples=200)
@given(TEXTS)
def test_show_tokens_shows_every_letter_and_every_token(bpe, text):
    for enc in (get_cached("gpt2:1000"), bpe):
        ids = enc.encode_ordinary(text)
        ((_, pieces),) = show_tokens(text, enc).rows
        assert "".join(piece for piece, _ in pieces) == text
        assert [i for _, run in pieces for i in run] == ids
        for _, run in pieces:  # no shorter run would hold whole letters
            for k in range(1, len(run)):
                with pytest.raises(UnicodeDecodeError):
                    b"".join(enc.decode_tokens_bytes(run[:k])).decode()
        seen = Spans(show_tokens(text, enc)._repr_html_())
        shown_ids, shown_bytes = [], []
        for title in seen.titles:
            for part in title.split(" + "):
                i, hexadecimal = part.split(" (")
                shown_ids.append(int(i))
                shown_bytes.append(bytes.fromhex(hexadecimal.rstrip(")")))
        assert shown_ids == ids and shown_bytes == enc.decode_tokens_bytes(ids)
        assert not seen.open
        digits = "".join(c for c in seen.text if c != "↵")
        assert digits == text.replace("↵", "").replace("\n", "")


def test_show_tokens_side_by_side_and_without_html(gpt2):
    view = show_tokens("żółw", gpt2, get_cached("whisper"))
    lines = repr(view).splitlines()
    assert [line.split(":")[0] for line in lines] == ["gpt2 (5)", "whisper (3)"]
    assert lines[0] == "gpt2 (5): ż⟨2⟩|ó|ł|w"
    html = view._repr_html_()
    assert html.count("<tr>") == 2
    assert "<script" not in html and "<style" not in html
