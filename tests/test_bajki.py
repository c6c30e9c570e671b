"""The stories: correct Polish by Morfeusz2's tags, varied, reproducible, held out; and questions that no shortcut answers."""

import json
import math
import re
import zlib
from collections import Counter

import make_forms
import morfeusz2
import numpy as np
import pytest
from conftest import python

import babygpt.corpus as bc
from babygpt.corpus import bajka, bajki_items, load_corpus

MORFEUSZ = morfeusz2.Morfeusz()
CASES = make_forms.CASES
GENDER_OF = {"pm": "m1", "pf": "f"}


@pytest.fixture(scope="module")
def stories():
    return [bajka(i) for i in range(20_000)]


@pytest.fixture(scope="module")
def items():
    return bajki_items(2000)


def readings(form):
    """(lemma, part of speech, sets of values) of a form; an inflected past like zgubiłem is read as two words and joined."""
    found = []
    for start, end, (_, lemma, tag, _, _) in MORFEUSZ.analyse(form):
        pos, *values = tag.split(":")
        found.append((start, end, lemma.partition(":")[0], pos, [set(v.split(".")) for v in values]))
    return found


def known(form):
    return not any(pos == "ign" for _, _, _, pos, _ in readings(form))


def test_the_forms_are_morfeusz_own():
    made, wrong = make_forms.make((make_forms.DATA / "bajki.txt").read_text(encoding="utf-8"))
    assert not wrong and made == json.loads((make_forms.DATA / "bajki_forms.json").read_text(encoding="utf-8"))


def test_every_sentence_can_be_said_with_every_word():
    """Each form that a line asks of a role exists, whatever is drawn: roles are tried with many casts."""
    for index in range(20_000):
        plot, cast, _, _ = bc._drawn(index, "train", seed=9)
        if index < 2000:
            for _, lines in plot.beats:
                for line in lines:
                    for piece in line:
                        for text in [piece] if isinstance(piece, str) else piece:
                            text.format_map(cast)


def test_morfeusz_knows_every_word(stories):
    words = Counter(w for s in stories for w in re.findall(r"[^\W\d_]+", s))
    assert words.total() > 200_000
    assert [w for w in words if not known(w) and not known(w.lower())] == []


def test_more_than_five_thousand_forms(stories):
    assert len({w.lower() for s in stories for w in re.findall(r"[^\W\d_]+", s)}) >= 5_000


def test_letters_and_marks_are_those_of_polish_print(stories):
    assert set("".join(stories)) <= set("aąbcćdeęfghijklłmnńoóprsśtuwyzźżAĄBCĆDEĘFGHIJKLŁMNŃOÓPRSŚTUWYZŹŻ .,:!?–-\n")
    for text in stories[:5000]:
        assert not re.search(r" {2}| [,.:!?]|[{}|\[\]¶^]|^ | $|\n\n", text)
        assert all(sentence[0].isupper() or sentence[0] == "–" for sentence in re.split(r"(?<=[.!?]) (?!–)|\n", text))


class Traced(bc._Word):
    """A word that notes what was asked of it."""

    __slots__ = ()
    seen = set()

    def __format__(self, spec):
        form = super().__format__(spec)
        Traced.seen.add((self.forms.get("M", ""), self.adjective, spec, form))
        return form


def test_adjectives_and_verbs_agree_with_their_nouns(monkeypatch):
    """In the text itself: what stands beside a noun shares its case, number and gender, by Morfeusz' tags."""
    monkeypatch.setattr(bc, "_Word", Traced)
    bc._grammar.cache_clear()
    Traced.seen.clear()
    for index in range(3000):
        bajka(index)
    bc._grammar.cache_clear()
    pairs = checked = 0
    for lemma, adjective, spec, form in Traced.seen:
        head = lemma.split(" ")[0]
        nouns = [values for _, _, _, pos, values in readings(head) if pos == "subst"]
        if adjective and spec in CASES:
            first, second = form.split(" ")[:2]
            ours = [v for _, _, _, pos, v in readings(first) if pos == "adj"]
            theirs = [v for _, _, _, pos, v in readings(second) if pos == "subst"]
            assert any({"sg"} <= a[0] & n[0] and CASES[spec] in a[1] & n[1] and a[2] & n[2] for a in ours for n in theirs), form
            pairs += 1
        elif head and "+" not in spec and spec not in CASES and spec not in ("gdzie", "dokąd", "skąd"):
            verbs = [v for _, _, _, pos, v in readings(form) if pos == "praet"]
            assert any("sg" in v[0] and "sg" in n[0] and "nom" in n[1] and v[1] & n[2] for v in verbs for n in nouns), (lemma, form)
            checked += 1
    assert pairs > 1000 and checked > 1000


def test_fewer_than_one_in_a_hundred_has_a_near_twin(stories):
    """MinHash (Broder 1997): 64 minima of hashed five-word shingles; candidates share one of 16 bands of four; twins agree on 0.7."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 2**31 - 1, size=(2, 64), dtype=np.uint64)
    signatures = np.empty((len(stories), 64), dtype=np.uint64)
    for i, text in enumerate(stories):
        words = text.lower().split()
        hashes = np.array([zlib.crc32(" ".join(words[k : k + 5]).encode()) for k in range(len(words) - 4)], dtype=np.uint64)
        signatures[i] = ((hashes[:, None] * a + b) % np.uint64(2**31 - 1)).min(0)
    twins = set()
    for band in range(0, 64, 4):
        buckets = {}
        for i, key in enumerate(map(bytes, signatures[:, band : band + 4].copy())):
            buckets.setdefault(key, []).append(i)
        for members in buckets.values():
            for k, i in enumerate(members):
                for j in members[k + 1 : k + 50]:
                    if (signatures[i] == signatures[j]).mean() >= 0.7:
                        twins |= {i, j}
    assert len(set(stories)) == len(stories) and len(twins) < 0.01 * len(stories)


def test_a_story_is_a_function_of_its_number():
    code = "import zlib; from babygpt.corpus import bajka; print(zlib.crc32(''.join(bajka(i, s, 3) for i in (5, 10**12) for s in ('train', 'test')).encode()))"
    ours = zlib.crc32("".join(bajka(i, s, 3) for i in (5, 10**12) for s in ("train", "test")).encode())
    assert {int(python("-c", code, env={"PYTHONHASHSEED": h}).stdout) for h in ("0", "1")} == {ours}
    assert len({bajka(i, s, seed) for i in range(50) for s in ("train", "test") for seed in (0, 1)}) == 200


def test_the_corpus_is_endless_and_counts_from_its_beginning():
    docs = load_corpus("bajki", "test", limit_docs=20)
    assert [d["text"] for d in docs] == [d["text"] for d in docs] == [bajka(i, "test") for i in range(20)]
    assert load_corpus("bajki").id != load_corpus("bajki", "test").id
    assert 9_000 < sum(len(d["text"].encode()) for d in load_corpus("bajki", limit_bytes=10_000)) <= 10_000


def test_training_and_test_share_neither_heroes_nor_plots_with_their_places():
    seen = {}
    for split in ("train", "test"):
        drawn = [bc._drawn(i, split, seed=0)[:2] for i in range(4000)]
        heroes = {f"{cast[name]:M}" for _, cast in drawn for name in "bp"}
        seen[split] = heroes, {(plot.title, f"{cast['w']:gdzie}") for plot, cast in drawn}
    assert len(seen["test"][0]) > 20 and not seen["train"][0] & seen["test"][0]
    assert len(seen["test"][1]) > 50 and not seen["train"][1] & seen["test"][1]


# --- questions


def accuracy(items, value):
    """How often the highest value of an ending alone is the gold one's."""
    return np.mean([max(range(4), key=lambda i: value(item["endings"][i])) == int(item["label"]) for item in items])


def test_items_have_hellaswags_fields_and_one_right_answer(items):
    assert len(items) >= 500 and [i["ind"] for i in items] == list(range(len(items)))
    for item in items:
        assert item["ctx"] == item["ctx_a"] and item["ctx_b"] == "" and bc._CAPITAL.sub("", item["ctx"]) == item["ctx"]
        assert len(set(item["endings"])) == 4 and item["label"] in "0123" and item["activity_label"]
        words = [set(re.findall(r"\w+", e)) for e in item["endings"]]
        assert all(w - set.intersection(*words) for w in words)  # none is the others' common core
    assert {item["label"] for item in items} == set("0123")
    seed, index = items[7]["source_id"].split("~")[1:]
    gold = items[7]["endings"][int(items[7]["label"])]
    assert bajka(int(index), "test", int(seed)).startswith(items[7]["ctx"] + " " + gold)  # the story itself goes on with the gold ending


def test_no_shortcut_answers_them(items, stories):
    def tokens(text):
        return re.findall(r"\w+|[^\w\s]", text.lower())

    unigrams, bigrams = Counter(), Counter()
    for text in stories:
        words = tokens(text)
        unigrams.update(words)
        bigrams.update(zip(words, words[1:]))
    total = unigrams.total()

    def unigram(text):
        return [math.log((unigrams[w] + 1) / (total + len(unigrams))) for w in tokens(text)]

    def bigram(text):  # a model of the ending, without what came before it
        words = tokens(text)
        return [unigram(words[0])[0]] + [math.log((bigrams[a, b] + unigrams[b] / total) / (unigrams[a] + 1)) if unigrams[b] else -15.0 for a, b in zip(words, words[1:])]

    shortcuts = {"longest": len, "shortest": lambda e: -len(e)}
    for name, model in (("unigram", unigram), ("ending only", bigram)):
        shortcuts |= {name: lambda e, m=model: sum(m(e)), f"{name}, per byte": lambda e, m=model: sum(m(e)) / len(e.encode())}
    found = {name: accuracy(items, value) for name, value in shortcuts.items()}
    assert max(found.values()) <= 0.30 and min(found.values()) >= 0.20, found
    for name, value in shortcuts.items():
        assert accuracy(items[:600], value) <= 0.32, name
