"""Checks for the exercises of lesson 01: tokenizer."""

import math

import numpy as np

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 01.1 One merge


def merge(ids, pair, new_id):
    out = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == tuple(pair):
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def merge_first_only(ids, pair, new_id):
    for i in range(len(ids)):
        if tuple(ids[i : i + 2]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return ids


def merge_overlapping(ids, pair, new_id):
    out = []
    joined = False  # the token before this one and this one are the pair
    for i in range(len(ids)):
        begins = tuple(ids[i : i + 2]) == pair
        if begins:
            out.append(new_id)
        elif not joined:
            out.append(ids[i])
        joined = begins
    return out


def merge_last_lost(ids, pair, new_id):
    out = []
    i = 0
    while i < len(ids) - 1:
        if tuple(ids[i : i + 2]) == pair:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def merge_from_the_right(ids, pair, new_id):
    return merge(ids[::-1], pair[::-1], new_id)[::-1]


def merge_cases():
    for ids in [], [1], [1, 2, 3], [3, 1, 2], [1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 2, 1]:
        yield ids, (1, 2), 9
        yield ids, (1, 1), 9
    rng = np.random.default_rng(0)
    for n in range(2, 30):
        yield rng.integers(1, 3, size=n).tolist(), (1, int(rng.integers(1, 3))), 9


EXERCISES["01.1"] = Exercise(
    merge,
    merge_cases,
    mistakes={
        "uses a token twice: in 1 1 1 the pair (1, 1) occurs once, "
        "since a token that was joined is gone": merge_overlapping,
        "loses the last token when it is in no pair": merge_last_lost,
        "joins only the first pair: every occurrence is replaced": merge_first_only,
        "joins from the right: BPE goes from left to right, "
        "which matters for 1 1 1": merge_from_the_right,
    },
)


# ---- 01.2 The premium


def premium(pairs, n_tokens):
    polish = sum(n_tokens(pl) for pl, en in pairs)
    english = sum(n_tokens(en) for pl, en in pairs)
    return polish / english


def mean_of_ratios(pairs, n_tokens):
    return float(np.mean([n_tokens(pl) / n_tokens(en) for pl, en in pairs]))


def premium_upside_down(pairs, n_tokens):
    return 1 / premium(pairs, n_tokens)


def premium_of_words(pairs, n_tokens):
    return premium(pairs, lambda text: len(text.split()))


def premium_cases():
    yield [("aa", "a")], len
    yield [("aaaa", "a"), ("aaaaaaaa", "aaaaaaaa")], len
    rng = np.random.default_rng(0)
    for n in range(1, 20):
        lengths = rng.integers(1, 40, size=(n, 2))
        yield [("a " * int(pl), "b " * int(en)) for pl, en in lengths], len


EXERCISES["01.2"] = Exercise(
    premium,
    premium_cases,
    mistakes={
        "is a mean of ratios: every short text weighs as much as a long one; "
        "divide the sums": mean_of_ratios,
        "is upside down: Polish tokens go above the line, "
        "English ones below": premium_upside_down,
        "counts words or letters: use n_tokens": premium_of_words,
    },
)


# ---- 01.3 From nats per token to bits per byte


def bits_per_byte(nats_per_token, text, n_tokens):
    total_bits = nats_per_token * n_tokens / math.log(2)
    return total_bits / len(text.encode("utf-8"))


def nats_per_byte(nats_per_token, text, n_tokens):
    return nats_per_token * n_tokens / len(text.encode())


def multiplied_by_ln_2(nats_per_token, text, n_tokens):
    return nats_per_byte(nats_per_token, text, n_tokens) * math.log(2)


def bits_per_letter(nats_per_token, text, n_tokens):
    return nats_per_token * n_tokens / math.log(2) / len(text)


def of_one_token(nats_per_token, text, n_tokens):
    return bits_per_byte(nats_per_token, text, 1)


def bits_per_token(nats_per_token, text, n_tokens):
    return nats_per_token / math.log(2)


def bits_per_byte_cases():
    yield math.log(2), "ab", 2
    yield 1.0, "łoś", 3
    yield 1.8478, "Zażółć gęślą jaźń", 14
    yield 3.0, "kot", 1


EXERCISES["01.3"] = Exercise(
    bits_per_byte,
    bits_per_byte_cases,
    mistakes={
        "is nats per byte: a bit is ln 2 nats, so divide by ln 2": nats_per_byte,
        "multiplies by ln 2: a nat is more than a bit, "
        "so the number of bits is larger than that of nats": multiplied_by_ln_2,
        "is bits per letter: Polish letters have up to two bytes each": bits_per_letter,
        "is one token's loss over all the bytes: "
        "multiply by the number of tokens first": of_one_token,
        "is bits per token: the bytes are missing": bits_per_token,
    },
)
