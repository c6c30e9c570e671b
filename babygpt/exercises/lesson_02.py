"""Checks for the exercises of lesson 02: token files and cuts."""

import numpy as np

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 02.1 Pack documents


def pack(docs, eot):
    ids, ends = [], []
    for doc in docs:
        ids += [*doc, eot]
        ends.append(len(ids))
    return ids, ends


def pack_opening(docs, eot):
    ids, ends = [], []
    for doc in docs:
        ids += [eot, *doc]
        ends.append(len(ids))
    return ids, ends


def pack_last_open(docs, eot):
    ids, ends = pack(docs, eot)
    return ids[:-1], [*ends[:-1], ends[-1] - 1]


def pack_inclusive(docs, eot):
    ids, ends = pack(docs, eot)
    return ids, [end - 1 for end in ends]


def pack_without_eot(docs, eot):
    ids, ends = [], []
    for doc in docs:
        ids += doc
        ends.append(len(ids))
    return ids, ends


def pack_cases():
    yield [[1]], 0
    yield [[1, 2], [3]], 0
    yield [[5], [], [6, 7]], 0
    yield [[1, 2, 3, 4, 5, 6, 7, 8], [1], [2, 3]], 0
    yield [[1, 2], [3, 4]], 99


EXERCISES["02.1"] = Exercise(
    pack,
    pack_cases,
    mistakes={
        "opens documents with end-of-text: the model then never learns "
        "to predict an end at the end of the last one": pack_opening,
        "leaves the last document open: "
        "it needs its end-of-text like all others": pack_last_open,
        "points at the end-of-text: "
        "an exclusive end is the position after it": pack_inclusive,
        "puts no end-of-text between documents": pack_without_eot,
    },
)


# ---- 02.2 The nearest end


def nearest_end(ends, cursor):
    return min(ends, key=lambda end: (abs(end - cursor), end))


def end_ahead(ends, cursor):
    return min(end for end in ends if end >= cursor)


def end_behind(ends, cursor):
    behind = [end for end in ends if end <= cursor]
    return max(behind) if behind else ends[0]


def later_end(ends, cursor):
    return min(ends, key=lambda end: (abs(end - cursor), -end))


def number_of_end(ends, cursor):
    return ends.index(nearest_end(ends, cursor))


def nearest_end_cases():
    yield [10, 20, 30], 12
    yield [10, 20, 30], 18
    yield [10, 20], 15
    yield [10, 20], 20
    yield [10, 20], 3
    rng = np.random.default_rng(0)
    for _ in range(40):
        ends = np.unique(rng.integers(1, 100, size=rng.integers(2, 12)))
        yield ends.tolist(), int(rng.integers(1, ends[-1] + 1))


EXERCISES["02.2"] = Exercise(
    nearest_end,
    nearest_end_cases,
    mistakes={
        "only looks forward: the nearest end may lie behind the cursor": end_ahead,
        "only looks back: the nearest end may lie ahead of the cursor": end_behind,
        "takes the later of two ends that are equally near: "
        "the rule is the earlier": later_end,
        "gives the number of the end in the list, "
        "not its position in the file": number_of_end,
    },
)


# ---- 02.3 What fixed blocks would break


def n_broken(ends, block):
    cuts = range(block, ends[-1], block)
    broken = 0
    for start, end in zip([0, *ends], ends):
        broken += any(start < cut < end for cut in cuts)
    return broken


def n_broken_or_cut_at_end(ends, block):
    cuts = range(block, ends[-1], block)
    broken = 0
    for start, end in zip([0, *ends], ends):
        broken += any(start < cut <= end for cut in cuts)
    return broken


def n_cuts(ends, block):
    return sum(cut not in ends for cut in range(block, ends[-1], block))


def n_whole(ends, block):
    return len(ends) - n_broken(ends, block)


def n_broken_cases():
    yield [4, 8, 12], 4
    yield [4, 8, 12], 6
    yield [20], 4
    yield [3, 7, 12], 5
    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = rng.integers(1, 20, size=rng.integers(1, 12))
        yield np.cumsum(lengths).tolist(), int(rng.integers(2, 15))


EXERCISES["02.3"] = Exercise(
    n_broken,
    n_broken_cases,
    mistakes={
        "counts cuts, not documents: a long document may be cut many times "
        "and is one broken document": n_cuts,
        "counts cuts that fall on a document's end: "
        "those break nothing": n_broken_or_cut_at_end,
        "counts the whole documents: the question is how many are broken": n_whole,
    },
)
