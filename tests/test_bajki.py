"""The stories: correct Polish by Morfeusz2's tags, varied, reproducible, held out;
and questions that no shortcut answers."""

import itertools
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

import babygpt.engine.bajki as bc
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
    """(lemma, part of speech, sets of values) of the readings of a form.

    An inflected past like zgubiłem is read as two words, each with readings of its own.
    """
    found = []
    for _, _, (_, lemma, tag, _, _) in MORFEUSZ.analyse(form):
        pos, *values = tag.split(":")
        sets = [set(v.split(".")) for v in values]
        found.append((lemma.partition(":")[0], pos, sets))
    return found


def values_of(form, part_of_speech):
    """The sets of values of the readings as that part of speech."""
    return [values for _, pos, values in readings(form) if pos == part_of_speech]


def known(form):
    return not any(pos == "ign" for _, pos, _ in readings(form))


def test_the_forms_are_morfeusz_own():
    text = (make_forms.DATA / "bajki.txt").read_text(encoding="utf-8")
    forms = (make_forms.DATA / "bajki_forms.json").read_text(encoding="utf-8")
    made, wrong = make_forms.make(text)
    assert not wrong and made == json.loads(forms)


def test_every_sentence_can_be_said_with_every_word():
    """Each form that a line asks of a role exists, whatever is drawn.

    Roles are tried with many casts.
    """
    for index in range(20_000):
        plot, cast, _, _ = bc._drawn(index, "train", seed=9)
        if index < 2000:
            lines = [line for _, lines in plot.beats for line in lines]
            for piece in itertools.chain.from_iterable(lines):
                for text in [piece] if isinstance(piece, str) else piece:
                    text.format_map(cast)


def test_morfeusz_knows_every_word(stories):
    words = Counter(w for s in stories for w in re.findall(r"[^\W\d_]+", s))
    assert words.total() > 200_000
    assert [w for w in words if not known(w) and not known(w.lower())] == []


def test_more_than_five_thousand_forms(stories):
    forms = {w.lower() for s in stories for w in re.findall(r"[^\W\d_]+", s)}
    assert len(forms) >= 5_000


def test_letters_and_marks_are_those_of_polish_print(stories):
    assert set("".join(stories)) <= set(
        "aąbcćdeęfghijklłmnńoóprsśtuwyzźżAĄBCĆDEĘFGHIJKLŁMNŃOÓPRSŚTUWYZŹŻ .,:!?–-\n"
    )
    for text in stories[:5000]:
        assert not re.search(r" {2}| [,.:!?]|[{}|\[\]¶^]|^ | $|\n\n", text)
        for sentence in re.split(r"(?<=[.!?]) (?!–)|\n", text):
            assert sentence[0].isupper() or sentence[0] == "–"


class Traced(bc._Word):
    """A word that notes what was asked of it."""

    __slots__ = ()
    seen = set()

    def __format__(self, spec):
        form = super().__format__(spec)
        Traced.seen.add((self.forms.get("M", ""), self.adjective, spec, form))
        return form


def test_adjectives_and_verbs_agree_with_their_nouns(monkeypatch):
    """In the text itself: what stands beside a noun shares its case, number and gender,
    by Morfeusz' tags."""
    monkeypatch.setattr(bc, "_Word", Traced)
    bc._grammar.cache_clear()
    Traced.seen.clear()
    for index in range(3000):
        bajka(index)
    bc._grammar.cache_clear()
    pairs = checked = 0
    for lemma, adjective, spec, form in Traced.seen:
        head = lemma.split(" ")[0]
        is_verb = "+" not in spec and spec not in ("gdzie", "dokąd", "skąd", *CASES)
        if adjective and spec in CASES:
            first, second = form.split(" ")[:2]
            ours, nouns = values_of(first, "adj"), values_of(second, "subst")
            assert any(
                {"sg"} <= a[0] & n[0] and CASES[spec] in a[1] & n[1] and a[2] & n[2]
                for a, n in itertools.product(ours, nouns)
            ), form
            pairs += 1
        elif head and is_verb:
            verbs, nouns = values_of(form, "praet"), values_of(head, "subst")
            assert any(
                "sg" in v[0] and "sg" in n[0] and "nom" in n[1] and v[1] & n[2]
                for v, n in itertools.product(verbs, nouns)
            ), (lemma, form)
            checked += 1
    assert pairs > 1000 and checked > 1000


def test_fewer_than_one_in_a_hundred_has_a_near_twin(stories):
    """MinHash (Broder 1997): 64 minima of hashed five-word shingles.

    Candidates share one of 16 bands of four; twins agree on 0.7.
    """
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 2**31 - 1, size=(2, 64), dtype=np.uint64)
    signatures = np.empty((len(stories), 64), dtype=np.uint64)
    for i, text in enumerate(stories):
        words = text.lower().split()
        shingles = [" ".join(words[k : k + 5]) for k in range(len(words) - 4)]
        hashes = np.array([zlib.crc32(s.encode()) for s in shingles], dtype=np.uint64)
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
    code = """
import zlib
from babygpt.corpus import bajka
texts = [bajka(i, split, 3) for i in (5, 10**12) for split in ("train", "test")]
checksum = zlib.crc32("".join(texts).encode())
"""
    names = {}
    exec(code, names)
    for seed in ("0", "1"):
        again = python("-c", code + "print(checksum)", env={"PYTHONHASHSEED": seed})
        assert int(again.stdout) == names["checksum"]
    numbers = itertools.product(range(50), ("train", "test"), (0, 1))
    assert len({bajka(i, split, seed) for i, split, seed in numbers}) == 200


def test_the_corpus_is_endless_and_counts_from_its_beginning():
    docs = load_corpus("bajki", "test", limit_docs=20)
    stories = [bajka(i, "test") for i in range(20)]
    assert [d["text"] for d in docs] == [d["text"] for d in docs] == stories
    assert load_corpus("bajki").id != load_corpus("bajki", "test").id
    limited = load_corpus("bajki", limit_bytes=10_000)
    assert 9_000 < sum(len(d["text"].encode()) for d in limited) <= 10_000


def test_training_and_test_share_neither_heroes_nor_plots_with_their_places():
    seen = {}
    for split in ("train", "test"):
        drawn = [bc._drawn(i, split, seed=0)[:2] for i in range(4000)]
        heroes = {f"{cast[name]:M}" for _, cast in drawn for name in "bp"}
        places = {(plot.title, f"{cast['w']:gdzie}") for plot, cast in drawn}
        seen[split] = heroes, places
    assert len(seen["test"][0]) > 20 and not seen["train"][0] & seen["test"][0]
    assert len(seen["test"][1]) > 50 and not seen["train"][1] & seen["test"][1]


# --- questions


def accuracy(items, value):
    """How often the highest value of an ending alone is the gold one's."""
    right = 0
    for item in items:
        values = [value(ending) for ending in item["endings"]]
        right += values.index(max(values)) == int(item["label"])
    return right / len(items)


def test_items_have_hellaswags_fields_and_one_right_answer(items):
    assert len(items) >= 500 and [i["ind"] for i in items] == list(range(len(items)))
    for item in items:
        assert item["ctx"] == item["ctx_a"] and item["ctx_b"] == ""
        assert bc._CAPITAL.sub("", item["ctx"]) == item["ctx"]
        assert len(set(item["endings"])) == 4 and item["label"] in "0123"
        assert item["activity_label"]
        words = [set(re.findall(r"\w+", e)) for e in item["endings"]]
        common = set.intersection(*words)
        assert all(w - common for w in words)  # none is the others' common core
    assert {item["label"] for item in items} == set("0123")
    # the story itself goes on with the gold ending
    item = items[7]
    seed, index = item["source_id"].split("~")[1:]
    gold = item["endings"][int(item["label"])]
    story = bajka(int(index), "test", int(seed))
    assert story.startswith(item["ctx"] + " " + gold)


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
        size = total + len(unigrams)
        return [math.log((unigrams[w] + 1) / size) for w in tokens(text)]

    def bigram(text):  # a model of the ending, without what came before it
        words = tokens(text)
        scores = [unigram(words[0])[0]]
        for a, b in zip(words, words[1:]):
            p = (bigrams[a, b] + unigrams[b] / total) / (unigrams[a] + 1)
            scores.append(math.log(p) if unigrams[b] else -15.0)
        return scores

    shortcuts = {"longest": len, "shortest": lambda e: -len(e)}
    for name, model in (("unigram", unigram), ("ending only", bigram)):
        shortcuts |= {
            name: lambda e, m=model: sum(m(e)),
            f"{name}, per byte": lambda e, m=model: sum(m(e)) / len(e.encode()),
        }
    found = {name: accuracy(items, value) for name, value in shortcuts.items()}
    assert max(found.values()) <= 0.30 and min(found.values()) >= 0.20, found
    for name, value in shortcuts.items():
        assert accuracy(items[:600], value) <= 0.32, name
