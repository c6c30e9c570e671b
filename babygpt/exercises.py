"""Checks for the exercises in the notebooks.

`check("01.2", fn)` compares `fn` with a slow and obvious specification on many arguments, small ones first. A wrong
answer is then compared with functions that make the typical mistakes: where it behaves like one of them on all
arguments, the verdict says which. Unlike the other modules this one is written by hand.
"""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Exercise:
    """What `check` compares an answer with."""

    spec: Callable  # the right function, as plainly as it can be said
    cases: Callable[[], Iterator[tuple]]  # its arguments, small ones first
    mistakes: dict[str, Callable]  # what to tell the reader → a function that makes this mistake
    observe: Callable = lambda f, *args: f(*args)  # what is compared, where it is not simply what the function returns


EXERCISES: dict[str, Exercise] = {}


def check(number: str, answer: Callable) -> None:
    """Print a verdict on an answer to exercise `number` ("03.2"): right, a named mistake, or where it differs. Never raises."""
    try:
        verdict = _verdict(EXERCISES[number], answer) if number in EXERCISES else f"? no such exercise; there are {', '.join(EXERCISES)}"
    except Exception as e:  # whatever a reader hands in, the notebook goes on
        verdict = f"✗ could not be checked: {type(e).__name__}: {e}"
    print(f"{number} {verdict}")


def _verdict(exercise: Exercise, answer: Callable) -> str:
    cases = list(exercise.cases())
    seen = [_outcome(exercise, answer, args) for args in cases]
    right = [_outcome(exercise, exercise.spec, args) for args in cases]
    wrong = [i for i in range(len(cases)) if not _same(seen[i], right[i])]
    if not wrong:
        return f"✓ right, {len(cases)} cases"
    i = wrong[0]
    if seen[i] is None or isinstance(seen[i], NotImplementedError):
        return "… nothing is returned yet: replace the … in the function"
    for message, mistake in exercise.mistakes.items():
        if all(_same(s, _outcome(exercise, mistake, args)) for s, args in zip(seen, cases)):
            return f"✗ {message}"
    args = ", ".join(map(_short, cases[i]))
    if isinstance(seen[i], dict):
        return f"✗ for ({args}) it does not hold: {'; '.join(k for k in right[i] if seen[i][k] != right[i][k])}"
    return f"✗ for ({args}) expected {_short(right[i])}, got {_short(seen[i])}"


def _outcome(exercise: Exercise, f: Callable, args: tuple) -> Any:
    "What comes of calling `f` on a copy of the arguments; an exception is an outcome too."
    try:
        with np.errstate(all="ignore"):
            return exercise.observe(f, *deepcopy(args))
    except Exception as e:
        return e


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(a, (str, dict)) or isinstance(b, (str, dict)) or a is None or b is None:
        return type(a) is type(b) and a == b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    try:
        a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=np.float64) for x in (a, b))
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def _short(x: Any) -> str:
    if isinstance(x, Exception):
        return f"{type(x).__name__}: {x}"
    if isinstance(x, torch.nn.Module):
        return "a model"
    if isinstance(x, (torch.Tensor, np.ndarray)):
        shape = tuple(x.shape)
        x = x.tolist() if np.prod(shape) <= 12 else None
        if x is None:
            return f"a {shape} array"
    if isinstance(x, float):
        return f"{x:.6g}"
    if isinstance(x, (list, tuple)):
        return "[" + ", ".join(map(_short, x)) + "]"
    text = repr(x) if not callable(x) else x.__name__
    return text if len(text) <= 80 else text[:77] + "…"


def _exercise(number: str, cases: Callable, observe: Callable = Exercise.observe):
    "Register the decorated function, which gives (specification, mistakes)."

    def register(make: Callable):
        spec, mistakes = make()
        EXERCISES[number] = Exercise(spec, cases, mistakes, observe)

    return register


# ---- 00: documents


def _prefix_cases():
    for text, n in (("kot", 2), ("łoś", 1), ("łoś", 2), ("łoś", 3), ("łoś", 5), ("", 3), ("Zażółć gęślą jaźń", 0)):
        yield text, n
    for n in range(40):
        yield "„Zażółć” gęślą 🦌 jaźń", n


@_exercise("00.1", _prefix_cases)
def _():
    def spec(text, n_bytes):
        while len(text.encode()) > n_bytes:
            text = text[:-1]
        return text

    return spec, {
        "counts letters, not bytes: ł is one letter and two bytes in UTF-8": lambda t, n: t[:n],
        "leaves a replacement character where the cut went through a letter": lambda t, n: t.encode()[:n].decode(errors="replace"),
        "raises an error where the cut goes through a letter: decode what is whole, drop the rest": lambda t, n: t.encode()[:n].decode(),
        "drops a letter that still fits: at most n bytes, not fewer": lambda t, n: spec(t, n - 1) if n else "",
    }


def _similarity_cases():
    yield "ala ma kota", "ala ma kota", 2
    yield "ala ma kota", "ala ma psa", 2
    yield "ala ma kota", "kota ma ala", 2
    yield "a b a b a b", "a b c", 2
    yield "a b c d e f", "a b c", 1
    rng = np.random.default_rng(0)
    for _ in range(30):
        yield *(" ".join(rng.choice(list("abcd"), size=rng.integers(4, 12))) for _ in range(2)), int(rng.integers(1, 4))


@_exercise("00.2", _similarity_cases)
def _():
    def shingles(text, n):
        words = text.split()
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    def spec(a, b, n):
        a, b = shingles(a, n), shingles(b, n)
        return len(a & b) / len(a | b)

    def share(divisor):
        return lambda a, b, n: len((a := shingles(a, n)) & (b := shingles(b, n))) / divisor(len(a), len(b))

    return spec, {
        "compares single words: their order is lost, so „kota ma ala” looks like „ala ma kota”": lambda a, b, n: spec(a, b, 1),
        "divides by the smaller set: that is containment, and a short text inside a long one scores 1": share(min),
        "divides by both sizes added: what they share is in both, so it is counted twice": share(lambda a, b: a + b),
        "misses the last shingle: there are len(words) - n + 1 of them": lambda a, b, n: spec(" ".join(a.split()[:-1]), " ".join(b.split()[:-1]), n),
    }


# ---- 01: tokenizer


def _merge_cases():
    for ids in ([], [1], [1, 2, 3], [3, 1, 2], [1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 2, 1]):
        yield from ((ids, pair, 9) for pair in ((1, 2), (1, 1)))
    rng = np.random.default_rng(0)
    for n in range(2, 30):
        yield rng.integers(1, 3, size=n).tolist(), (1, int(rng.integers(1, 3))), 9


@_exercise("01.1", _merge_cases)
def _():
    def spec(ids, pair, new_id):
        out, i = [], 0
        while i < len(ids):
            if tuple(ids[i : i + 2]) == tuple(pair):
                out, i = [*out, new_id], i + 2
            else:
                out, i = [*out, ids[i]], i + 1
        return out

    def first(ids, pair, new_id):
        at = next((i for i in range(len(ids)) if tuple(ids[i : i + 2]) == pair), None)
        return ids if at is None else [*ids[:at], new_id, *ids[at + 2 :]]

    def overlapping(ids, pair, new_id):
        hit = [tuple(ids[i : i + 2]) == pair for i in range(len(ids))]
        return [new_id if hit[i] else ids[i] for i in range(len(ids)) if hit[i] or not (i and hit[i - 1])]

    def last_lost(ids, pair, new_id):
        out, i = [], 0
        while i < len(ids) - 1:
            both = tuple(ids[i : i + 2]) == pair
            out, i = [*out, new_id if both else ids[i]], i + 1 + both
        return out

    return spec, {
        "uses a token twice: in 1 1 1 the pair (1, 1) occurs once, since a token that was joined is gone": overlapping,
        "loses the last token when it is in no pair": last_lost,
        "joins only the first pair: every occurrence is replaced": first,
        "joins from the right: BPE goes from left to right, which matters for 1 1 1": lambda i, p, n: spec(i[::-1], p[::-1], n)[::-1],
    }


def _premium_cases():
    yield [("aa", "a")], len
    yield [("aaaa", "a"), ("aaaaaaaa", "aaaaaaaa")], len
    rng = np.random.default_rng(0)
    for n in range(1, 20):
        yield [("a " * int(a), "b " * int(b)) for a, b in rng.integers(1, 40, size=(n, 2))], len


@_exercise("01.2", _premium_cases)
def _():
    def spec(pairs, n_tokens):
        return sum(n_tokens(pl) for pl, en in pairs) / sum(n_tokens(en) for pl, en in pairs)

    return spec, {
        "is a mean of ratios: every short text weighs as much as a long one; divide the sums": lambda p, n: float(np.mean([n(a) / n(b) for a, b in p])),
        "is upside down: Polish tokens go above the line, English ones below": lambda p, n: 1 / spec(p, n),
        "counts words or letters: use n_tokens": lambda p, n: spec(p, lambda t: len(t.split())),
    }


def _bpb_cases():
    for nats, text, n in ((math.log(2), "ab", 2), (1.0, "łoś", 3), (1.8478, "Zażółć gęślą jaźń", 14), (3.0, "kot", 1)):
        yield nats, text, n


@_exercise("01.3", _bpb_cases)
def _():
    def spec(nats_per_token, text, n_tokens):
        total_bits = nats_per_token * n_tokens / math.log(2)
        return total_bits / len(text.encode("utf-8"))

    return spec, {
        "is nats per byte: a bit is ln 2 nats, so divide by ln 2": lambda x, t, n: spec(x, t, n) * math.log(2),
        "multiplies by ln 2: a nat is more than a bit, so the number of bits is larger than that of nats": lambda x, t, n: spec(x, t, n) * math.log(2) ** 2,
        "is bits per letter: Polish letters have up to two bytes each": lambda x, t, n: x * n / math.log(2) / len(t),
        "is one token's loss over all the bytes: multiply by the number of tokens first": lambda x, t, n: spec(x, t, 1),
        "is bits per token: the bytes are missing": lambda x, t, n: x / math.log(2),
    }


# ---- 02: token files and cuts


def _pack_cases():
    for docs in ([[1]], [[1, 2], [3]], [[5], [], [6, 7]], [list(range(1, 9)), [1], [2, 3]]):
        yield docs, 0
    yield [[1, 2], [3, 4]], 99


@_exercise("02.1", _pack_cases)
def _():
    def spec(docs, eot):
        ids, ends = [], []
        for doc in docs:
            ids += [*doc, eot]
            ends.append(len(ids))
        return ids, ends

    def opening(docs, eot):
        ids, ends = [], []
        for doc in docs:
            ids += [eot, *doc]
            ends.append(len(ids))
        return ids, ends

    return spec, {
        "opens documents with end-of-text: the model then never learns to predict an end at the end of the last one": opening,
        "leaves the last document open: it needs its end-of-text like all others": lambda d, e: ((s := spec(d, e))[0][:-1], [*s[1][:-1], s[1][-1] - 1]),
        "points at the end-of-text: an exclusive end is the position after it": lambda d, e: ((s := spec(d, e))[0], [x - 1 for x in s[1]]),
        "puts no end-of-text between documents": lambda d, e: ([i for x in d for i in x], np.cumsum([len(x) for x in d]).tolist()),
    }


def _cut_cases():
    yield [10, 20, 30], 12
    yield [10, 20, 30], 18
    yield [10, 20], 15
    yield [10, 20], 20
    yield [10, 20], 3
    rng = np.random.default_rng(0)
    for _ in range(40):
        ends = np.unique(rng.integers(1, 100, size=rng.integers(2, 12)))
        yield ends.tolist(), int(rng.integers(1, ends[-1] + 1))


@_exercise("02.2", _cut_cases)
def _():
    def spec(ends, cursor):
        return min(ends, key=lambda end: (abs(end - cursor), end))

    return spec, {
        "only looks forward: the nearest end may lie behind the cursor": lambda e, c: min(x for x in e if x >= c),
        "only looks back: the nearest end may lie ahead of the cursor": lambda e, c: max([x for x in e if x <= c] or e[:1]),
        "takes the later of two ends that are equally near: the rule is the earlier": lambda e, c: min(e, key=lambda x: (abs(x - c), -x)),
        "gives the number of the end in the list, not its position in the file": lambda e, c: e.index(spec(e, c)),
    }


def _broken_cases():
    yield [4, 8, 12], 4
    yield [4, 8, 12], 6
    yield [20], 4
    yield [3, 7, 12], 5
    rng = np.random.default_rng(0)
    for _ in range(30):
        yield np.cumsum(rng.integers(1, 20, size=rng.integers(1, 12))).tolist(), int(rng.integers(2, 15))


@_exercise("02.3", _broken_cases)
def _():
    def spec(ends, block):
        cuts = range(block, ends[-1], block)
        return sum(any(start < cut < end for cut in cuts) for start, end in zip([0, *ends], ends))

    def inclusive(ends, block):
        cuts = range(block, ends[-1], block)
        return sum(any(start < cut <= end for cut in cuts) for start, end in zip([0, *ends], ends))

    return spec, {
        "counts cuts, not documents: a long document may be cut many times and is one broken document": lambda e, b: sum(c not in e for c in range(b, e[-1], b)),
        "counts cuts that fall on a document's end: those break nothing": inclusive,
        "counts the whole documents: the question is how many are broken": lambda e, b: len(e) - spec(e, b),
    }


# ---- 03: order and lanes


def _position_cases():
    yield 0, 0, 0, 0, 5, 2, 3, 4
    rng = np.random.default_rng(0)
    for _ in range(40):
        steps, n_lanes, rows, block = (int(x) for x in rng.integers(2, 9, size=4))
        step, lane, row, col = (int(rng.integers(n)) for n in (steps, n_lanes, rows, block))
        yield step, lane, row, col, steps, n_lanes, rows, block


@_exercise("03.1", _position_cases)
def _():
    def spec(step, lane, row, col, steps, n_lanes, rows, block_size):
        stream = np.arange(n_lanes * steps * rows * block_size)
        return int(stream.reshape(n_lanes, steps, rows, block_size)[lane, step, row, col])

    return spec, {
        "deals the batches in turn, lane after lane: a lane is one unbroken piece of the stream": lambda s, l, r, c, S, L, R, B: ((s * L + l) * R + r) * B + c,
        "gives every row a stream of its own: the rows of a batch follow one another": lambda s, l, r, c, S, L, R, B: ((l * R + r) * S + s) * B + c,
        "forgets that a lane reads `rows` rows at every step": lambda s, l, r, c, S, L, R, B: (l * S + s) * B + r * B + c,
        "starts every lane at the beginning of the stream": lambda s, l, r, c, S, L, R, B: (s * R + r) * B + c,
    }


def _ints(indices):
    if indices is None:
        raise NotImplementedError
    return [int(i) for i in indices]


def _observe_order(f, n, seed, epoch):
    first, again = _ints(f(n, seed, epoch)), _ints(f(n, seed, epoch))

    def other(seed, epoch):
        return _ints(f(n, seed, epoch)) != first

    return {
        "every index once": sorted(first) == list(range(n)),
        "the same when asked again": first == again,
        "another in the next epoch": other(seed, epoch + 1),
        "another with another seed": other(seed + 1, epoch),
        "not seed s + 1's epoch before": other(seed + 1, epoch - 1),
    }


@_exercise("03.2", lambda: ((100, seed, epoch) for seed in (0, 5) for epoch in (1, 2)), _observe_order)
def _():
    def spec(n, seed, epoch):
        return np.random.default_rng([seed, epoch]).permutation(n)

    def draws(n, seed, epoch):
        return np.random.default_rng([seed, epoch]).integers(n, size=n)

    rng = np.random.default_rng(0)  # never set again, like the generator behind np.random.shuffle
    return spec, {
        "depends on what was drawn before: asked again, the order differs, and a resumed run would read other text": lambda n, s, e: rng.permutation(n),
        "adds seed and epoch: seed 0 in epoch 1 has the order of seed 1 in epoch 0; give the generator both numbers": lambda n, s, e: np.random.default_rng(s + e).permutation(n),
        "draws with replacement: some chunks are read twice and a third never": draws,
        "ignores the epoch: every epoch has the same order": lambda n, s, e: np.random.default_rng(s).permutation(n),
        "ignores the seed: every run has the same order": lambda n, s, e: np.random.default_rng(e).permutation(n),
        "does not shuffle at all": lambda n, s, e: range(n),
    }


def _observe_share(f, n, world):
    shares = [_ints(f(n, rank, world)) for rank in range(world)]
    flat = [i for share in shares for i in share]
    return {
        "nothing is left out": set(flat) >= set(range(n)),
        "nothing is taken twice": len(flat) == len(set(flat)),
        "nothing is made up": set(flat) <= set(range(n)),
        "shares differ by one at most": max(map(len, shares)) - min(map(len, shares)) <= 1,
    }


@_exercise("03.3", lambda: ((n, world) for n, world in ((8, 1), (8, 2), (8, 3), (10, 4), (9984, 7))), _observe_share)
def _():
    def spec(n, rank, world):
        return range(rank, n, world)

    def wrapped(n, rank, world):
        size = -(-n // world)
        return [i % n for i in range(rank * size, (rank + 1) * size)]

    return spec, {
        "drops the remainder: the last items belong to nobody, and which ones depends on the number of processes": lambda n, r, w: range(r * (n // w), (r + 1) * (n // w)),
        "repeats items to make the shares equal, as DistributedSampler does: some count twice": wrapped,
        "gives the whole remainder to the last process: the others wait for it": lambda n, r, w: range(r * (n // w), n if r == w - 1 else (r + 1) * (n // w)),
        "gives everything to every process": lambda n, r, w: range(n),
    }


# ---- 04: the model


def _norm_cases():
    g = torch.Generator().manual_seed(0)
    for shape in ((4,), (3, 4), (2, 5, 8)):
        x = torch.randn(shape, generator=g) * 3 + 1
        yield x, torch.ones(shape[-1]), torch.zeros(shape[-1])
        yield x, torch.randn(shape[-1], generator=g), torch.randn(shape[-1], generator=g)
    yield torch.randn(2, 4, generator=g) * 0.003, torch.ones(4), torch.zeros(4)


@_exercise("04.1", _norm_cases)
def _():
    def norm(dim=-1, unbiased=False, inside=True):
        def f(x, gain, bias):
            mean, var = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, unbiased=unbiased)
            return (x - mean) / ((var + 1e-5).sqrt() if inside else var.sqrt() + 1e-5) * gain + bias

        return f

    return norm(), {
        "divides the variance by n - 1, torch's default: a layer norm divides by n (unbiased=False)": norm(unbiased=True),
        "adds ε to the standard deviation: it belongs to the variance, under the root": norm(inside=False),
        "normalises over the positions: each position is normalised by itself, over its features": norm(dim=0),
        "does not subtract the mean: that is RMS norm": lambda x, g, b: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * g + b,
        "forgets gain and bias": lambda x, g, b: norm()(x, torch.ones(()), torch.zeros(())),
    }


def _attention_cases():
    g = torch.Generator().manual_seed(0)
    for shape in ((1, 2), (3, 4), (2, 5, 4), (2, 2, 7, 16)):
        yield tuple(torch.randn(shape, generator=g) for _ in range(3))


@_exercise("04.2", _attention_cases)
def _():
    def attention(scale=lambda d: math.sqrt(d), masked=True, after=False, dim=-1):
        def f(q, k, v):
            scores = q @ k.transpose(-2, -1) / scale(q.shape[-1])
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            if masked and not after:
                scores = scores.masked_fill(future, -math.inf)
            weights = scores.softmax(dim)
            return (weights.masked_fill(future, 0) if after else weights) @ v

        return f

    return attention(), {
        "looks into the future: position t may see 0 … t only": attention(masked=False),
        "masks after the softmax: the weights of a row no longer add up to 1; set the scores to -inf before": attention(after=True),
        "does not divide by √d: the softmax hardens as heads grow": attention(scale=lambda d: 1),
        "divides by d instead of √d": attention(scale=lambda d: d),
        "normalises over the queries: the weights of each query must add up to 1 over the keys (dim=-1)": attention(dim=-2),
    }


def _size_cases():
    yield 12, 768, 50257, 1024
    yield 1, 4, 10, 3
    yield 24, 1024, 50257, 1024
    yield 4, 128, 512, 128


@_exercise("04.3", _size_cases)
def _():
    def spec(n_layer, n_embd, vocab_size, block_size):
        from babygpt.model import GPT, GPTConfig

        with torch.device("meta"):  # shapes without memory
            model = GPT(GPTConfig(block_size, vocab_size, n_layer, 1, n_embd))
        return sum(p.numel() for p in model.parameters())

    return spec, {
        "counts the output layer: it is the embedding, used twice and stored once": lambda L, d, V, T: spec(L, d, V, T) + V * d,
        "forgets the biases: 9 · n_embd in the four linear layers of a block": lambda L, d, V, T: spec(L, d, V, T) - 9 * L * d,
        "forgets the last layer norm": lambda L, d, V, T: spec(L, d, V, T) - 2 * d,
        "forgets the layer norms: two in a block and one at the end, with gain and bias each": lambda L, d, V, T: spec(L, d, V, T) - (4 * L + 2) * d,
        "forgets the positions: block_size · n_embd": lambda L, d, V, T: spec(L, d, V, T) - T * d,
    }


# ---- 05: training


def _rate_cases():
    for args in ((100, 10, 1.0, 0.1), (10_000, 1_000, 6e-4, 6e-5), (20, 0, 1.0, 0.0)):
        yield from ((step, *args) for step in (0, 1, 9, 10, 11, 15, 50, 99, 100, 150, 999, 1000, 5000, 10_000))


@_exercise("05.1", _rate_cases)
def _():
    def rate(first=1, floor=True, late=True, beyond=True, shape=lambda x: 0.5 * (1 + math.cos(math.pi * x))):
        def f(step, max_steps, warmup_steps, lr, min_lr):
            if step < warmup_steps:
                return lr * (step + first) / warmup_steps
            done = (step - warmup_steps) / (max_steps - warmup_steps) if late else step / max_steps
            end = min_lr if floor else 0.0
            return end + (lr - end) * shape(min(done, 1.0) if beyond else done)

        return f

    return rate(), {
        "begins with a rate of 0: the first step would change nothing; use step + 1": rate(first=0),
        "falls to 0 instead of min_lr": rate(floor=False),
        "counts the warm-up as part of the cosine: it jumps where the warm-up ends": rate(late=False),
        "rises again after max_steps: a run that is made longer would climb the cosine; stay at min_lr": rate(beyond=False),
        "falls in a straight line: the cosine is flat at both ends": rate(shape=lambda x: 1 - x),
    }


class _Line(torch.nn.Module):
    "The smallest model with GPT's signature: (idx, targets) to (prediction, mean loss)."

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, x, y):
        prediction = x @ self.w
        return prediction, (prediction - y).square().mean()


def _accumulate_cases():
    g = torch.Generator().manual_seed(0)
    for rows, pieces in ((4, 1), (4, 2), (6, 3), (5, 2), (7, 3)):
        yield _Line(), torch.randn(rows, 3, generator=g), torch.randn(rows, generator=g), pieces


def _observe_gradient(f, model, x, y, pieces):
    f(model, x, y, pieces)
    return model.w.grad


@_exercise("05.2", _accumulate_cases, _observe_gradient)
def _():
    def spec(model, x, y, pieces):
        model(x, y)[1].backward()

    def inside(weight, forget=False):
        def f(model, x, y, pieces):
            for xi, yi in zip(x.chunk(pieces), y.chunk(pieces)):
                if forget:
                    model.zero_grad()
                (model(xi, yi)[1] * weight(len(xi), len(x), pieces)).backward()

        return f

    return spec, {
        "adds the means up: divide each loss, or the gradient is `pieces` times too large": inside(lambda n, N, k: 1),
        "weighs pieces of different sizes alike: a mean of means is not the mean; weigh each by its rows": inside(lambda n, N, k: 1 / k),
        "clears the gradients inside the loop: only the last piece is left": inside(lambda n, N, k: n / N, forget=True),
        "clears the gradients inside the loop, and does not divide": inside(lambda n, N, k: 1, forget=True),
        "clears the gradients inside the loop: only the last piece is left, divided by all": inside(lambda n, N, k: 1 / k, forget=True),
    }


def _clip_cases():
    g = torch.Generator().manual_seed(0)
    yield [torch.tensor([3.0]), torch.tensor([4.0])], 1.0
    yield [torch.tensor([0.3, 0.4])], 1.0
    for n in range(1, 6):
        yield [torch.randn(i + 1, generator=g) * n for i in range(n)], 1.5


@_exercise("05.3", _clip_cases)
def _():
    def scaled(grads, factor):
        return [x * factor for x in grads]

    def norm(grads):
        return math.sqrt(sum(x.square().sum().item() for x in grads))

    def spec(grads, max_norm):
        return scaled(grads, min(1.0, max_norm / norm(grads)))

    return spec, {
        "clips every tensor by itself: the direction of the step changes; there is one norm over all": lambda g, m: [spec([x], m)[0] for x in g],
        "cuts every number at ±max_norm: the direction of the step changes": lambda g, m: [x.clamp(-m, m) for x in g],
        "makes small gradients larger: a norm below max_norm stays as it is": lambda g, m: scaled(g, m / norm(g)),
        "forgets the root: the norm is √ of the sum of squares": lambda g, m: scaled(g, min(1.0, m / norm(g) ** 2)),
    }


# ---- 06: scores


def _loglik_cases():
    g = torch.Generator().manual_seed(0)
    for T, V, n in ((3, 4, 1), (5, 4, 3), (8, 11, 2), (8, 11, 7)):
        yield torch.randn(T, V, generator=g) * 2, torch.randint(V, (T,), generator=g), n


@_exercise("06.1", _loglik_cases)
def _():
    def total(logits, ids, positions, shift=1):
        return sum(logits[t - shift].log_softmax(0)[ids[t]].item() for t in positions)

    def spec(logits, ids, n_ctx):
        return total(logits, ids, range(n_ctx, len(ids)))

    return spec, {
        "is off by one: the logits at position t are about the token at t + 1": lambda x, i, n: total(x, i, range(n, len(i)), shift=0),
        "scores the context too: it is the same for all four endings, and only the ending counts": lambda x, i, n: total(x, i, range(1, len(i))),
        "is a mean: divide later, by what you choose; this is the sum": lambda x, i, n: spec(x, i, n) / (len(i) - n),
        "adds logits: they become log-probabilities by log_softmax": lambda x, i, n: sum(x[t - 1, i[t]].item() for t in range(n, len(i))),
        "misses the ending's first token: it is predicted by the context's last position": lambda x, i, n: total(x, i, range(n + 1, len(i))),
    }


def _choice_cases():
    yield [-4.0, -5.0], ["aaaa", "aaaaaaaaaa"]
    yield [-4.0, -5.0], ["ółóó", "kotkot"]
    words, rng = ["kot", "śpi", "żółw", "łoś", "źdźbło", "w lesie", "pójdźże"], np.random.default_rng(0)
    for _ in range(40):
        endings = [" ".join(rng.choice(words, size=rng.integers(1, 6))) for _ in range(4)]
        yield [-float(len(e) * rng.uniform(1, 1.6)) for e in endings], endings


@_exercise("06.2", _choice_cases)
def _():
    def best(size, sign=1):
        return lambda logliks, endings: int(np.argmax([sign * x / size(e) for x, e in zip(logliks, endings)]))

    return best(lambda e: len(e.encode())), {
        "divides by letters: that is the harness's acc_norm; asked for is the byte": best(len),
        "does not divide: short endings win": best(lambda e: 1),
        "takes the lowest: log-likelihoods are negative, the likeliest is the highest": best(lambda e: len(e.encode()), -1),
        "takes the longest ending": lambda x, e: int(np.argmax([len(s) for s in e])),
        "divides by words": best(lambda e: len(e.split())),
    }


def _sure_cases():
    yield 2770, 9984, 0.25
    yield 13, 48, 0.25
    yield 2500, 10_000, 0.25
    yield 60, 100, 0.5
    yield 0, 20, 0.25


@_exercise("06.3", _sure_cases)
def _():
    def spec(k, n, chance):
        variance_of_one = chance * (1 - chance)
        return (k - n * chance) / math.sqrt(n * variance_of_one)

    return spec, {
        "divides by the spread of one item: n of them spread by √n times as much": lambda k, n, p: (k - n * p) / math.sqrt(p * (1 - p)),
        "forgets the root: that is the variance": lambda k, n, p: (k - n * p) / (n * p * (1 - p)),
        "takes the points above chance as they are": lambda k, n, p: 100 * (k / n - p),
        "does not subtract chance": lambda k, n, p: k / math.sqrt(n * p * (1 - p)),
        "takes p for the variance of one item: it is p · (1 - p)": lambda k, n, p: (k - n * p) / math.sqrt(n * p),
    }



# ---- 07: sampling


def _temperature_cases():
    yield torch.tensor([0.0, 2.0, 1.0]), 1.0
    yield torch.tensor([0.0, 2.0, 1.0]), 0.5
    yield torch.tensor([0.0, 2.0, 1.0]), 0.0
    rng = torch.Generator().manual_seed(0)
    for temperature in (0.1, 0.7, 1.5, 5.0, 0.0):
        yield 3 * torch.randn(20, generator=rng), temperature


@_exercise("07.1", _temperature_cases)
def _():
    def coldest(logits):
        probs = torch.zeros(len(logits))
        probs[logits.argmax()] = 1.0
        return probs

    def with_zero(warm):
        return lambda logits, t: warm(logits, t) if t else coldest(logits)

    return with_zero(lambda x, t: (x / t).softmax(-1)), {
        "multiplies: a temperature below 1 must sharpen": with_zero(lambda x, t: (x * t).softmax(-1)),
        "divides probabilities, not logits: they no longer sum to 1": with_zero(lambda x, t: x.softmax(-1) / t),
        "divides probabilities and makes them sum to 1 again, which gives back what was there": with_zero(lambda x, t: x.softmax(-1)),
        "divides by zero: a temperature of 0 means the likeliest token": lambda x, t: (x / t).softmax(-1),
        "gives a flat distribution at 0: it is the other end, all on the largest": lambda x, t: (x / t).softmax(-1) if t else torch.ones(len(x)) / len(x),
    }


def _nucleus_cases():
    yield torch.tensor([0.1, 0.6, 0.3]), 0.5
    yield torch.tensor([0.1, 0.6, 0.3]), 0.7
    yield torch.tensor([0.125, 0.5, 0.375]), 0.5
    yield torch.tensor([0.125, 0.5, 0.375]), 1.0
    rng = torch.Generator().manual_seed(0)
    for p in (0.05, 0.3, 0.8, 0.95, 0.99):
        yield (2 * torch.randn(30, generator=rng)).softmax(-1), p


@_exercise("07.2", _nucleus_cases)
def _():
    def by(keep, descending=True):
        def f(probs, p):
            kept, total = [], 0.0
            for i in sorted(range(len(probs)), key=lambda i: float(probs[i]), reverse=descending):
                if not keep(total, float(probs[i]), p):
                    break
                kept.append(i)
                total += float(probs[i])
            return kept

        return f

    spec = by(lambda before, own, p: before < p - 1e-6)
    return spec, {
        "stops one too early: the token that takes the sum to p belongs to it": by(lambda before, own, p: before + own <= p + 1e-6),
        "stops one too late: where the sum is p already, the next is left out": by(lambda before, own, p: before <= p + 1e-6),
        "keeps tokens that are likelier than p each: it is their sum that counts": lambda x, p: [i for i in np.argsort(-x.numpy()).tolist() if x[i] >= p],
        "begins with the least likely": by(lambda before, own, p: before < p - 1e-6, descending=False),
        "gives places in the sorted order, not ids": lambda x, p: list(range(len(spec(x, p)))),
        "gives the ids in their own order, not the likeliest first": lambda x, p: sorted(spec(x, p)),
    }


def _cache_cases():
    yield 1, 1, 1, 1, 1, 1
    yield 12, 12, 768, 1, 1024, 2
    yield 12, 12, 768, 4, 1024, 4
    yield 4, 3, 96, 2, 256, 4
    yield 48, 25, 1600, 8, 1024, 2


@_exercise("07.3", _cache_cases)
def _():
    def spec(n_layer, n_head, n_embd, batch, length, itemsize):
        keys = n_layer * batch * n_head * length * (n_embd // n_head)
        return (keys + keys) * itemsize

    return spec, {
        "counts keys or values: both are kept": lambda *a: spec(*a) // 2,
        "multiplies by the heads: they share the width among them": lambda n, h, *a: spec(n, h, *a) * h,
        "counts one layer: each has its own": lambda n, *a: spec(1, *a),
        "counts numbers, not bytes": lambda *a: spec(*a) // a[-1],
        "counts one text of the batch": lambda n, h, d, b, t, size: spec(n, h, d, 1, t, size),
        "counts scores (length × length): they are not kept": lambda n, h, d, b, t, size: n * h * b * t * t * size,
    }


def _letter_cases():
    yield ["kot".encode()]
    yield ["ł".encode()[:1], "ł".encode()[1:]]
    yield ["ł".encode()[:1]]
    yield [b"a" + "ś".encode()[:1], "ś".encode()[1:] + b"b"]
    rng, data = np.random.default_rng(0), "Zażółć „gęślą” 🦌 jaźń".encode()
    for _ in range(12):
        cuts = [0, *sorted(rng.integers(0, len(data), size=rng.integers(1, 12)).tolist()), len(data)]
        yield [data[a:b] for a, b in zip(cuts, cuts[1:])]


@_exercise("07.4", lambda: ((pieces,) for pieces in _letter_cases()))
def _():
    def spec(pieces):
        shown = [b"".join(pieces[:n]).decode(errors="ignore") for n in range(len(pieces) + 1)]
        return [after[len(before) :] for before, after in zip(shown, shown[1:])]

    return spec, {
        "shows � for half a letter: keep the half until the rest has come": lambda pieces: [p.decode(errors="replace") for p in pieces],
        "drops letters that come in halves: keep the first half": lambda pieces: [p.decode(errors="ignore") for p in pieces],
        "raises an error at half a letter": lambda pieces: [p.decode() for p in pieces],
        "gives all that was said so far each time: asked for is what is new": lambda pieces: [b"".join(pieces[: n + 1]).decode(errors="ignore") for n in range(len(pieces))],
        "takes every byte for a letter: that is Latin-1": lambda pieces: [p.decode("latin-1") for p in pieces],
    }


# ---- 08: experiments


def _paired_cases():
    yield [1.20, 1.22, 1.18], [1.10, 1.13, 1.09]
    yield [0.90, 0.95, 0.91], [0.92, 0.93, 0.94]
    yield [1.0, 2.0, 3.0], [0.5, 1.5, 2.5]
    yield [1.31, 1.27, 1.33], [1.25, 1.30, 1.21]


@_exercise("08.1", _paired_cases)
def _():
    def interval(x, t=4.303, dof=2, root=True):
        mean = sum(x) / len(x)
        spread = (sum((v - mean) ** 2 for v in x) / dof) ** 0.5
        return mean, t * spread / (len(x) ** 0.5 if root else 1)

    def apart(a, b):
        return [y - x for x, y in zip(a, b)]

    def unpaired(a, b):
        (m, h), (n, k) = interval(a), interval(b)
        return n - m, (h**2 + k**2) ** 0.5

    return lambda a, b: interval(apart(a, b)), {
        "takes 1.96, which is for many values: with three it is 4.303": lambda a, b: interval(apart(a, b), t=1.96),
        "divides by n: with so few values the spread is then too small, divide by n − 1": lambda a, b: interval(apart(a, b), dof=3),
        "gives the spread of a single run: the mean of three is √3 times as sure": lambda a, b: interval(apart(a, b), root=False),
        "forgets that the runs are pairs: what a seed does to both arms cancels": unpaired,
        "subtracts the other way round: better must be negative": lambda a, b: interval(apart(b, a)),
    }


def _sweep_cases():
    yield ({1e-3: 1.5, 2e-3: 1.2, 4e-3: 1.3},)
    yield ({1e-3: 1.5, 2e-3: 1.3, 4e-3: 1.2},)
    yield ({1e-3: 1.2, 2e-3: 1.3, 4e-3: 1.4},)
    yield ({4e-3: 1.2, 1e-3: 1.3, 2e-3: 1.25},)
    yield ({1e-3: 1.5, 2e-3: 1.2, 4e-3: math.nan},)
    yield ({1e-3: 1.2, 2e-3: math.nan, 4e-3: math.nan},)


@_exercise("08.2", _sweep_cases)
def _():
    def spec(found):
        best = None
        for lr, bpb in found.items():
            if not math.isnan(bpb) and (best is None or bpb < found[best]):
                best = lr
        if best == max(found):
            return 2 * best
        return best / 2 if best == min(found) else 0.0

    def always_wider(found):
        return 2 * max(found)

    def upwards_only(found):
        return 2 * max(found) if spec(found) > max(found) else 0.0

    def by_order(found):
        lrs = list(found)
        best = min((lr for lr in lrs if not math.isnan(found[lr])), key=found.get)
        return 2 * best if best == lrs[-1] else best / 2 if best == lrs[0] else 0.0

    def nan_is_best(found):
        best = next((lr for lr in found if math.isnan(found[lr])), None) or min(found, key=found.get)
        return 2 * best if best == max(found) else best / 2 if best == min(found) else 0.0

    return spec, {
        "widens the sweep although the best rate has neighbours on both sides": always_wider,
        "never looks below the smallest rate": upwards_only,
        "takes the order of the dict for the order of the rates": by_order,
        "takes a run that ended in NaN for the best": nan_is_best,
    }


def _reach_cases():
    yield [(0, 2.0), (100, 1.0)], 1.5
    yield [(0, 3.0), (100, 2.0), (200, 1.5), (300, 1.25)], 1.4
    yield [(0, 3.0), (100, 2.0), (200, 1.5)], 2.0
    yield [(0, 3.0), (100, 1.0), (200, 1.5), (300, 0.5)], 1.2
    yield [(0, 3.0), (100, 2.0)], 1.0


@_exercise("08.3", _reach_cases)
def _():
    def spec(curve, goal):
        for (n, a), (m, b) in zip(curve, curve[1:]):
            if a > goal >= b:
                return n + (m - n) * (a - goal) / (a - b)
        return math.inf

    def next_point(curve, goal):
        return next((float(n) for n, a in curve if a <= goal), math.inf)

    def last_crossing(curve, goal):
        found = [n + (m - n) * (a - goal) / (a - b) for (n, a), (m, b) in zip(curve, curve[1:]) if a > goal >= b]
        return found[-1] if found else math.inf

    return spec, {
        "takes the first point below: the curve was there before": next_point,
        "takes the last time that the curve comes down to the goal": last_crossing,
        "gives the last point where the goal is never reached": lambda c, g: spec(c, g) if spec(c, g) < math.inf else float(c[-1][0]),
    }


# ---- 10: what a run costs


def _flops_cases():
    yield 1, 1, 1, 1
    yield 1, 2, 5, 3
    yield 12, 768, 50_257, 1024
    yield 4, 96, 2048, 256
    yield 12, 768, 32_000, 64


@_exercise("10.1", _flops_cases)
def _():
    def forward(n_layer, d, V, T, output=True, attention=1.0, positions=False, layers=None):
        products = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)] * (n_layer if layers is None else layers)
        products += [(d, V)] * output + [(T, d)] * positions
        weights = sum(2 * rows * columns for rows, columns in products)
        return weights + attention * sum(2 * T * d for _ in range(n_layer) for _ in ("scores", "values"))

    def spec(*a):
        return 3 * forward(*a)

    return spec, {
        "counts the forward pass only: the backward pass costs twice as much again": forward,
        "doubles: the backward pass needs two products for each one of the forward pass, which makes three": lambda *a: 2 * forward(*a),
        "leaves attention out: scores and their sums are products too": lambda *a: 3 * forward(*a, attention=0),
        "leaves the output layer out: it is the largest matrix of all": lambda *a: 3 * forward(*a, output=False),
        "counts a multiplication and its addition as one operation": lambda *a: spec(*a) / 2,
        "counts half of attention: it has two products, and by the convention scores of the future count": lambda *a: 3 * forward(*a, attention=0.5),
        "counts the table of positions: it is looked up, not multiplied": lambda *a: 3 * forward(*a, positions=True),
        "counts one layer's matrices: there are n_layer": lambda *a: 3 * forward(*a, layers=1),
    }


def _state_cases():
    yield 1, 1
    yield 16, 2
    yield 1_000, 1
    yield 124_439_808, 8
    yield 124_439_808, 16


@_exercise("10.2", _state_cases)
def _():
    def held(weights=1, gradients=1, moments=2, buckets=1, always=False, size=4):
        return lambda n, world: size * n * sum([weights, gradients, moments] + [buckets] * (always or world > 1))

    return held(), {
        "forgets DDP's buckets: from two processes on there is a copy of the gradients": held(buckets=0),
        "counts DDP's buckets for a single process too, which has no DDP": held(always=True),
        "forgets the gradients or one of AdamW's two moments: with the weights that makes four numbers a parameter": held(moments=1),
        "forgets AdamW's moments": held(moments=0),
        "counts the weights alone: training keeps much more": held(gradients=0, moments=0, buckets=0),
        "counts numbers, not bytes": held(size=1),
        "divides by the processes: under DDP each of them holds all of it": lambda n, world: held()(n, world) / world,
        "multiplies by the processes: asked for is one of them": lambda n, world: held()(n, world) * world,
    }


def _ring_cases():
    yield 1_000_000_000, 2, 8.0
    yield 1_000_000_000, 4, 8.0
    yield 497_759_232, 8, 100.0
    yield 497_759_232, 16, 10.0
    yield 497_759_232, 1, 10.0


@_exercise("10.3", _ring_cases)
def _():
    def spec(n_bytes, world, gbit):
        bits = 0.0
        for _round in ("add up", "hand round"):
            for _turn in range(1, world):
                bits += 8 * n_bytes / world
        return bits / (gbit * 1e9)

    return spec, {
        "counts one round: the sums must be handed round as well": lambda n, w, g: spec(n, w, g) / 2,
        "takes bytes for bits: a byte has eight": lambda n, w, g: spec(n, w, g) / 8,
        "sends all of it twice: a process sends `world - 1` pieces of `world` in each round": lambda n, w, g: 16 * n / (g * 1e9),
        "sends everything in every turn, or adds up what all send at the same time: in a turn each sends one piece": lambda n, w, g: spec(n, w, g) * w,
        "sends everything to each of the others: what goes round are pieces": lambda n, w, g: spec(n, w, g) * w / 2,
    }


# ---- 11: checkpoints


class _Disk(dict):
    "A disk that remembers what a kill would have left, after each of its operations."

    def __init__(self, files: dict[str, str]):
        super().__init__(files)
        self.moments = []

    def _note(self):
        self.moments.append(dict(self))

    def __setitem__(self, name, data):
        for content in ("", data):
            super().__setitem__(name, content)
            self._note()

    def __delitem__(self, name):
        super().__delitem__(name)
        self._note()

    def rename(self, old, new):
        super().__setitem__(new, self.pop(old))
        self._note()


def _saves(f, files, name, data):
    disk = _Disk(files)
    f(disk, name, data)
    if not disk.moments:
        return None
    return {
        f"killed at any moment, the old {name} or the whole new one is there": all(m.get(name) in (files.get(name), data) for m in disk.moments),
        f"in the end {name} is the new one": disk.get(name) == data,
        "nothing else is left": disk.keys() <= {*files, name} - {name + ".tmp"},
    }


def _save_cases():
    yield {}, "a", "new"
    yield {"a": "old"}, "a", "new"
    yield {"a": "old", "b": "other"}, "a", "longer than that"
    yield {"a": "old", "a.tmp": "ne"}, "a", "new"


@_exercise("11.1", _save_cases, observe=_saves)
def _():
    def spec(disk, name, data):
        disk[name + ".tmp"] = data
        disk.rename(name + ".tmp", name)

    def into_the_file(disk, name, data):
        disk[name] = data

    def delete_first(disk, name, data):
        disk[name + ".tmp"] = data
        if name in disk:
            del disk[name]
        disk.rename(name + ".tmp", name)

    def copy(disk, name, data):
        disk[name + ".tmp"] = data
        disk[name] = disk[name + ".tmp"]

    def beside(disk, name, data):
        disk[name + ".tmp"] = data

    return spec, {
        "writes into the file itself: killed between making and filling it, neither the old nor the new one is there": into_the_file,
        "deletes the old one first: killed after that, there is none": delete_first,
        "leaves a second file behind, and the first is empty for a moment all the same: fill another and give it the name": copy,
        "never gives the new file its name": beside,
    }


def _go_on_cases():
    yield [], []
    yield ["step_000004"], []
    yield ["step_000004", "step_000008"], []
    yield ["step_000008", "step_000004"], []
    yield ["step_000004", "step_000008", "step_000012.tmp"], []
    yield ["step_000004", "step_000008"], ["step_000008"]
    yield ["step_000004", "step_000008"], ["step_000008", "step_000004"]
    yield ["step_1000000", "step_999000"], []


@_exercise("11.2", _go_on_cases)
def _():
    def pick(by=lambda name: int(name[5:].removesuffix(".tmp")), unfinished=False, broken=False, which=max):
        def go_on_from(folders, damaged):
            whole = [name for name in folders if (unfinished or not name.endswith(".tmp")) and (broken or name not in damaged)]
            return which(whole, key=by, default="")

        return go_on_from

    def last_of_the_list(folders, damaged):
        whole = [name for name in folders if not name.endswith(".tmp") and name not in damaged]
        return whole[-1] if whole else ""

    def only_the_newest(folders, damaged):
        newest = pick(broken=True)(folders, damaged)
        return "" if newest in damaged else newest

    return pick(), {
        "compares names as words: step_999000 comes after step_1000000 there": pick(by=lambda name: name),
        "takes one that was not finished (.tmp)": pick(unfinished=True),
        "takes a damaged one": pick(broken=True),
        "takes the last of the list: the names come in any order": last_of_the_list,
        "takes the oldest one: all that was learned since is lost": pick(which=min),
        "gives up where the newest is damaged: there may be a whole one before it": only_the_newest,
    }


# ---- 12: rehearsal


def _interval_cases():
    yield 1.0, 200.0
    yield 10.0, 3_600.0
    yield 10.0, 86_400.0
    yield 45.0, 21_600.0


@_exercise("12.1", _interval_cases)
def _():
    def spec(save, between):
        def wasted(t):
            return save / t + t / 2 / between

        low, high = 1e-3, 1e7
        for _halving in range(200):  # the curve falls, then rises: look at two points, keep the side of the lower one
            a, b = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, b) if wasted(a) < wasted(b) else (a, high)
        return low

    return spec, {
        "counts a whole interval for a fault: on average it comes in the middle": lambda s, b: math.sqrt(s * b),
        "forgets the root: that is a product of two times": lambda s, b: 2 * s * b,
        "divides by 2 where it should multiply": lambda s, b: math.sqrt(s * b / 2),
        "takes the mean of the two times": lambda s, b: (s + b) / 2,
    }


def _kill_cases():
    yield 12, 4, 7, 1
    yield 12, 4, 7, 2
    yield 12, 4, 3, 1
    yield 12, 4, 8, 1
    yield 1_000, 100, 999, 5
    yield 10, 1, 5, 3
    yield 10, 4, 5, 0


@_exercise("12.2", _kill_cases)
def _():
    def spec(last, every, at, kills):
        computed = step = safe = 0
        while step < last:
            step, computed = step + 1, computed + 1
            if step == at and kills:
                kills, step = kills - 1, safe
            elif step % every == 0:
                safe = step
        return computed

    return spec, {
        "takes the checkpoint of step `at` for written: the run died before it": lambda n, e, at, k: n + k * (at % e),
        "begins anew after each kill: there may be a checkpoint": lambda n, e, at, k: n + k * at,
        "counts one kill only": lambda n, e, at, k: spec(n, e, at, min(k, 1)),
        "counts a whole interval for each kill": lambda n, e, at, k: n + k * e,
        "forgets the steps that are computed again": lambda n, e, at, k: n,
        "counts only the steps that are computed again": lambda n, e, at, k: spec(n, e, at, k) - n,
    }
