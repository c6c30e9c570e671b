"""Checks for the exercises of lesson 07: sampling."""

import numpy as np
import torch

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 07.1 Temperature


def all_on_the_largest(logits):
    probs = torch.zeros(len(logits))
    probs[logits.argmax()] = 1.0
    return probs


def at_temperature(logits, temperature):
    if not temperature:
        return all_on_the_largest(logits)
    return (logits / temperature).softmax(-1)


def multiplied(logits, temperature):
    if not temperature:
        return all_on_the_largest(logits)
    return (logits * temperature).softmax(-1)


def probabilities_divided(logits, temperature):
    if not temperature:
        return all_on_the_largest(logits)
    return logits.softmax(-1) / temperature


def probabilities_as_they_were(logits, temperature):
    if not temperature:
        return all_on_the_largest(logits)
    return logits.softmax(-1)


def divided_by_zero(logits, temperature):
    return (logits / temperature).softmax(-1)


def flat_at_zero(logits, temperature):
    if not temperature:
        return torch.ones(len(logits)) / len(logits)
    return (logits / temperature).softmax(-1)


def at_temperature_cases():
    yield torch.tensor([0.0, 2.0, 1.0]), 1.0
    yield torch.tensor([0.0, 2.0, 1.0]), 0.5
    yield torch.tensor([0.0, 2.0, 1.0]), 0.0
    g = torch.Generator().manual_seed(0)
    for temperature in (0.1, 0.7, 1.5, 5.0, 0.0):
        yield 3 * torch.randn(20, generator=g), temperature


EXERCISES["07.1"] = Exercise(
    at_temperature,
    at_temperature_cases,
    mistakes={
        "multiplies: a temperature below 1 must sharpen": multiplied,
        "divides probabilities, not logits: "
        "they no longer sum to 1": probabilities_divided,
        "divides probabilities and makes them sum to 1 again, "
        "which gives back what was there": probabilities_as_they_were,
        "divides by zero: "
        "a temperature of 0 means the likeliest token": divided_by_zero,
        "gives a flat distribution at 0: "
        "it is the other end, all on the largest": flat_at_zero,
    },
)


# ---- 07.2 The nucleus

TINY = 1e-6  # sums of probabilities are that exact


def keep_while(wanted, probs, descending=True):
    """The likeliest ids, as long as wanted(sum of those before, own probability)."""
    probs = probs.tolist()
    kept, total = [], 0.0
    for i in sorted(range(len(probs)), key=probs.__getitem__, reverse=descending):
        if not wanted(total, probs[i]):
            break
        kept.append(i)
        total += probs[i]
    return kept


def nucleus(probs, p):
    return keep_while(lambda before, own: before < p - TINY, probs)


def nucleus_one_less(probs, p):
    return keep_while(lambda before, own: before + own <= p + TINY, probs)


def nucleus_one_more(probs, p):
    return keep_while(lambda before, own: before <= p + TINY, probs)


def likelier_than_p(probs, p):
    by_probability = np.argsort(-probs.numpy()).tolist()
    return [i for i in by_probability if probs[i] >= p]


def nucleus_of_least_likely(probs, p):
    return keep_while(lambda before, own: before < p - TINY, probs, descending=False)


def places_when_sorted(probs, p):
    return list(range(len(nucleus(probs, p))))


def nucleus_by_id(probs, p):
    return sorted(nucleus(probs, p))


def nucleus_cases():
    yield torch.tensor([0.1, 0.6, 0.3]), 0.5
    yield torch.tensor([0.1, 0.6, 0.3]), 0.7
    yield torch.tensor([0.125, 0.5, 0.375]), 0.5
    yield torch.tensor([0.125, 0.5, 0.375]), 1.0
    g = torch.Generator().manual_seed(0)
    for p in (0.05, 0.3, 0.8, 0.95, 0.99):
        yield (2 * torch.randn(30, generator=g)).softmax(-1), p


EXERCISES["07.2"] = Exercise(
    nucleus,
    nucleus_cases,
    mistakes={
        "stops one too early: "
        "the token that takes the sum to p belongs to it": nucleus_one_less,
        "stops one too late: "
        "where the sum is p already, the next is left out": nucleus_one_more,
        "keeps tokens that are likelier than p each: "
        "it is their sum that counts": likelier_than_p,
        "begins with the least likely": nucleus_of_least_likely,
        "gives places in the sorted order, not ids": places_when_sorted,
        "gives the ids in their own order, not the likeliest first": nucleus_by_id,
    },
)


# ---- 07.3 The size of a cache


def cache_bytes(n_layer, n_head, n_embd, batch, length, itemsize):
    keys = n_layer * batch * n_head * length * (n_embd // n_head)
    values = keys
    return (keys + values) * itemsize


def keys_only(n_layer, n_head, n_embd, batch, length, itemsize):
    return cache_bytes(n_layer, n_head, n_embd, batch, length, itemsize) // 2


def times_heads(n_layer, n_head, n_embd, batch, length, itemsize):
    return cache_bytes(n_layer, n_head, n_embd, batch, length, itemsize) * n_head


def one_layer(n_layer, n_head, n_embd, batch, length, itemsize):
    return cache_bytes(1, n_head, n_embd, batch, length, itemsize)


def cache_numbers(n_layer, n_head, n_embd, batch, length, itemsize):
    return cache_bytes(n_layer, n_head, n_embd, batch, length, 1)


def one_text(n_layer, n_head, n_embd, batch, length, itemsize):
    return cache_bytes(n_layer, n_head, n_embd, 1, length, itemsize)


def scores_kept(n_layer, n_head, n_embd, batch, length, itemsize):
    return n_layer * n_head * batch * length * length * itemsize


def cache_bytes_cases():
    yield 1, 1, 1, 1, 1, 1
    yield 12, 12, 768, 1, 1024, 2
    yield 12, 12, 768, 4, 1024, 4
    yield 4, 3, 96, 2, 256, 4
    yield 48, 25, 1600, 8, 1024, 2


EXERCISES["07.3"] = Exercise(
    cache_bytes,
    cache_bytes_cases,
    mistakes={
        "counts keys or values: both are kept": keys_only,
        "multiplies by the heads: they share the width among them": times_heads,
        "counts one layer: each has its own": one_layer,
        "counts numbers, not bytes": cache_numbers,
        "counts one text of the batch": one_text,
        "counts scores (length × length): they are not kept": scores_kept,
    },
)


# ---- 07.4 Whole letters only


def text_so_far(pieces):
    return b"".join(pieces).decode(errors="ignore")


def whole_letters(pieces):
    new = []
    before = ""
    for n in range(1, len(pieces) + 1):
        text = text_so_far(pieces[:n])
        new.append(text[len(before) :])
        before = text
    return new


def each_with_replacement(pieces):
    return [piece.decode(errors="replace") for piece in pieces]


def each_without_halves(pieces):
    return [piece.decode(errors="ignore") for piece in pieces]


def each_as_text(pieces):
    return [piece.decode() for piece in pieces]


def all_so_far(pieces):
    return [text_so_far(pieces[: n + 1]) for n in range(len(pieces))]


def each_as_latin_1(pieces):
    return [piece.decode("latin-1") for piece in pieces]


def whole_letters_cases():
    l_stroke, s_acute = "ł".encode(), "ś".encode()
    yield ([b"kot"],)
    yield ([l_stroke[:1], l_stroke[1:]],)
    yield ([l_stroke[:1]],)
    yield ([b"a" + s_acute[:1], s_acute[1:] + b"b"],)
    data = "Zażółć „gęślą” 🦌 jaźń".encode()
    rng = np.random.default_rng(0)
    for _ in range(12):
        inner = rng.integers(0, len(data), size=rng.integers(1, 12))
        cuts = [0, *sorted(inner.tolist()), len(data)]
        yield ([data[start:end] for start, end in zip(cuts, cuts[1:])],)


EXERCISES["07.4"] = Exercise(
    whole_letters,
    whole_letters_cases,
    mistakes={
        "shows � for half a letter: "
        "keep the half until the rest has come": each_with_replacement,
        "drops letters that come in halves: keep the first half": each_without_halves,
        "raises an error at half a letter": each_as_text,
        "gives all that was said so far each time: "
        "asked for is what is new": all_so_far,
        "takes every byte for a letter: that is Latin-1": each_as_latin_1,
    },
)
