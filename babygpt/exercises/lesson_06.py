"""Checks for the exercises of lesson 06: scores."""

import math

import numpy as np
import torch

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 06.1 The likelihood of an ending


def logprob(logits, token):
    return logits.log_softmax(0)[token].item()


def loglik(logits, ids, n_ctx):
    return sum(logprob(logits[t - 1], ids[t]) for t in range(n_ctx, len(ids)))


def loglik_off_by_one(logits, ids, n_ctx):
    return sum(logprob(logits[t], ids[t]) for t in range(n_ctx, len(ids)))


def loglik_of_all(logits, ids, n_ctx):
    return loglik(logits, ids, 1)


def mean_loglik(logits, ids, n_ctx):
    return loglik(logits, ids, n_ctx) / (len(ids) - n_ctx)


def sum_of_logits(logits, ids, n_ctx):
    return sum(logits[t - 1, ids[t]].item() for t in range(n_ctx, len(ids)))


def loglik_without_first(logits, ids, n_ctx):
    return loglik(logits, ids, n_ctx + 1)


def loglik_cases():
    g = torch.Generator().manual_seed(0)
    for length, vocab_size, n_ctx in (3, 4, 1), (5, 4, 3), (8, 11, 2), (8, 11, 7):
        logits = torch.randn(length, vocab_size, generator=g) * 2
        yield logits, torch.randint(vocab_size, (length,), generator=g), n_ctx


EXERCISES["06.1"] = Exercise(
    loglik,
    loglik_cases,
    mistakes={
        "is off by one: "
        "the logits at position t are about the token at t + 1": loglik_off_by_one,
        "scores the context too: it is the same for all four endings, "
        "and only the ending counts": loglik_of_all,
        "is a mean: divide later, by what you choose; this is the sum": mean_loglik,
        "adds logits: they become log-probabilities by log_softmax": sum_of_logits,
        "misses the ending's first token: "
        "it is predicted by the context's last position": loglik_without_first,
    },
)


# ---- 06.2 Choose by the byte


def n_bytes(text):
    return len(text.encode())


def best(scores):
    return int(np.argmax(scores))


def choose(logliks, endings):
    return best([x / n_bytes(ending) for x, ending in zip(logliks, endings)])


def choose_by_letter(logliks, endings):
    return best([x / len(ending) for x, ending in zip(logliks, endings)])


def choose_by_sum(logliks, endings):
    return best(logliks)


def choose_lowest(logliks, endings):
    return best([-x / n_bytes(ending) for x, ending in zip(logliks, endings)])


def choose_longest(logliks, endings):
    return best([len(ending) for ending in endings])


def choose_by_word(logliks, endings):
    return best([x / len(ending.split()) for x, ending in zip(logliks, endings)])


def choose_cases():
    yield [-4.0, -5.0], ["aaaa", "aaaaaaaaaa"]
    yield [-4.0, -5.0], ["ółóó", "kotkot"]
    words = ["kot", "śpi", "żółw", "łoś", "źdźbło", "w lesie", "pójdźże"]
    rng = np.random.default_rng(0)
    for _ in range(40):
        endings = [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(4)]
        yield [-float(len(e) * rng.uniform(1, 1.6)) for e in endings], endings


EXERCISES["06.2"] = Exercise(
    choose,
    choose_cases,
    mistakes={
        "divides by letters: that is the harness's acc_norm; "
        "asked for is the byte": choose_by_letter,
        "does not divide: short endings win": choose_by_sum,
        "takes the lowest: log-likelihoods are negative, "
        "the likeliest is the highest": choose_lowest,
        "takes the longest ending": choose_longest,
        "divides by words": choose_by_word,
    },
)


# ---- 06.3 How sure?


def sigmas(k, n, chance):
    variance_of_one = chance * (1 - chance)
    return (k - n * chance) / math.sqrt(n * variance_of_one)


def by_the_spread_of_one(k, n, chance):
    return (k - n * chance) / math.sqrt(chance * (1 - chance))


def by_the_variance(k, n, chance):
    return (k - n * chance) / (n * chance * (1 - chance))


def points_above_chance(k, n, chance):
    return 100 * (k / n - chance)


def without_chance_subtracted(k, n, chance):
    return k / math.sqrt(n * chance * (1 - chance))


def with_chance_as_variance(k, n, chance):
    return (k - n * chance) / math.sqrt(n * chance)


def sigmas_cases():
    yield 2770, 9984, 0.25
    yield 13, 48, 0.25
    yield 2500, 10_000, 0.25
    yield 60, 100, 0.5
    yield 0, 20, 0.25


EXERCISES["06.3"] = Exercise(
    sigmas,
    sigmas_cases,
    mistakes={
        "divides by the spread of one item: "
        "n of them spread by √n times as much": by_the_spread_of_one,
        "forgets the root: that is the variance": by_the_variance,
        "takes the points above chance as they are": points_above_chance,
        "does not subtract chance": without_chance_subtracted,
        "takes p for the variance of one item: "
        "it is p · (1 - p)": with_chance_as_variance,
    },
)
