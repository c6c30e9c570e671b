"""Checks for the exercises of lesson 00: documents."""

import numpy as np

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 00.1 A text that fits


def prefix(text, n_bytes):
    while len(text.encode()) > n_bytes:
        text = text[:-1]
    return text


def cut_by_letters(text, n_bytes):
    return text[:n_bytes]


def cut_with_replacement(text, n_bytes):
    return text.encode()[:n_bytes].decode(errors="replace")


def cut_with_error(text, n_bytes):
    return text.encode()[:n_bytes].decode()


def cut_too_short(text, n_bytes):
    return prefix(text, n_bytes - 1) if n_bytes else ""


def prefix_cases():
    yield "kot", 2
    yield "łoś", 1
    yield "łoś", 2
    yield "łoś", 3
    yield "łoś", 5
    yield "", 3
    yield "Zażółć gęślą jaźń", 0
    for n_bytes in range(40):
        yield "„Zażółć” gęślą 🦌 jaźń", n_bytes


EXERCISES["00.1"] = Exercise(
    prefix,
    prefix_cases,
    mistakes={
        "counts letters, not bytes: "
        "ł is one letter and two bytes in UTF-8": cut_by_letters,
        "leaves a replacement character "
        "where the cut went through a letter": cut_with_replacement,
        "raises an error where the cut goes through a letter: "
        "decode what is whole, drop the rest": cut_with_error,
        "drops a letter that still fits: at most n bytes, not fewer": cut_too_short,
    },
)


# ---- 00.2 How alike are two texts?


def shingles(text, n):
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def similarity(a, b, n):
    a, b = shingles(a, n), shingles(b, n)
    return len(a & b) / len(a | b)


def of_single_words(a, b, n):
    return similarity(a, b, 1)


def containment(a, b, n):
    a, b = shingles(a, n), shingles(b, n)
    return len(a & b) / min(len(a), len(b))


def of_both_sizes(a, b, n):
    a, b = shingles(a, n), shingles(b, n)
    return len(a & b) / (len(a) + len(b))


def without_last_words(a, b, n):
    return similarity(" ".join(a.split()[:-1]), " ".join(b.split()[:-1]), n)


def similarity_cases():
    yield "ala ma kota", "ala ma kota", 2
    yield "ala ma kota", "ala ma psa", 2
    yield "ala ma kota", "kota ma ala", 2
    yield "a b a b a b", "a b c", 2
    yield "a b c d e f", "a b c", 1
    rng = np.random.default_rng(0)
    for _ in range(30):
        a = " ".join(rng.choice(list("abcd"), size=rng.integers(4, 12)))
        b = " ".join(rng.choice(list("abcd"), size=rng.integers(4, 12)))
        yield a, b, int(rng.integers(1, 4))


EXERCISES["00.2"] = Exercise(
    similarity,
    similarity_cases,
    mistakes={
        "compares single words: their order is lost, "
        "so „kota ma ala” looks like „ala ma kota”": of_single_words,
        "divides by the smaller set: "
        "that is containment, and a short text inside a long one scores 1": containment,
        "divides by both sizes added: "
        "what they share is in both, so it is counted twice": of_both_sizes,
        "misses the last shingle: "
        "there are len(words) - n + 1 of them": without_last_words,
    },
)
