"""Checks for the exercises of lesson 03: order and lanes."""

import numpy as np

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 03.1 Where is it read?


def position_of(step, lane, row, col, steps, n_lanes, rows, block_size):
    stream = np.arange(n_lanes * steps * rows * block_size)
    return int(stream.reshape(n_lanes, steps, rows, block_size)[lane, step, row, col])


def batches_in_turn(step, lane, row, col, steps, n_lanes, rows, block_size):
    return ((step * n_lanes + lane) * rows + row) * block_size + col


def a_stream_for_every_row(step, lane, row, col, steps, n_lanes, rows, block_size):
    return ((lane * rows + row) * steps + step) * block_size + col


def one_row_a_step(step, lane, row, col, steps, n_lanes, rows, block_size):
    return (lane * steps + step) * block_size + row * block_size + col


def all_lanes_from_the_start(step, lane, row, col, steps, n_lanes, rows, block_size):
    return (step * rows + row) * block_size + col


def position_of_cases():
    yield 0, 0, 0, 0, 5, 2, 3, 4
    rng = np.random.default_rng(0)
    for _ in range(40):
        sizes = rng.integers(2, 9, size=4).tolist()  # steps, n_lanes, rows, block_size
        at = [int(rng.integers(size)) for size in sizes]  # step, lane, row, col
        yield *at, *sizes


EXERCISES["03.1"] = Exercise(
    position_of,
    position_of_cases,
    mistakes={
        "deals the batches in turn, lane after lane: "
        "a lane is one unbroken piece of the stream": batches_in_turn,
        "gives every row a stream of its own: "
        "the rows of a batch follow one another": a_stream_for_every_row,
        "forgets that a lane reads `rows` rows at every step": one_row_a_step,
        "starts every lane at the beginning of the stream": all_lanes_from_the_start,
    },
)


# ---- 03.2 An order that needs no memory


def ints(indices):
    if indices is None:
        raise NotImplementedError
    return [int(i) for i in indices]


def what_holds_for_an_order(f, n, seed, epoch):
    first = ints(f(n, seed, epoch))
    again = ints(f(n, seed, epoch))
    next_epoch = ints(f(n, seed, epoch + 1))
    next_seed = ints(f(n, seed + 1, epoch))
    same_sum = ints(f(n, seed + 1, epoch - 1))
    return {
        "every index once": sorted(first) == list(range(n)),
        "the same when asked again": again == first,
        "another in the next epoch": next_epoch != first,
        "another with another seed": next_seed != first,
        "not seed s + 1's epoch before": same_sum != first,
    }


def order_of(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


# Never set again, like the generator behind np.random.shuffle.
never_set_again = np.random.default_rng(0)


def order_from_what_was_drawn(n, seed, epoch):
    return never_set_again.permutation(n)


def order_from_a_sum(n, seed, epoch):
    return np.random.default_rng(seed + epoch).permutation(n)


def order_with_replacement(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).integers(n, size=n)


def order_without_epoch(n, seed, epoch):
    return np.random.default_rng(seed).permutation(n)


def order_without_seed(n, seed, epoch):
    return np.random.default_rng(epoch).permutation(n)


def not_shuffled(n, seed, epoch):
    return range(n)


def order_of_cases():
    yield 100, 0, 1
    yield 100, 0, 2
    yield 100, 5, 1
    yield 100, 5, 2


EXERCISES["03.2"] = Exercise(
    order_of,
    order_of_cases,
    mistakes={
        "depends on what was drawn before: asked again, the order differs, "
        "and a resumed run would read other text": order_from_what_was_drawn,
        "adds seed and epoch: seed 0 in epoch 1 has the order of seed 1 in epoch 0; "
        "give the generator both numbers": order_from_a_sum,
        "draws with replacement: "
        "some chunks are read twice and a third never": order_with_replacement,
        "ignores the epoch: every epoch has the same order": order_without_epoch,
        "ignores the seed: every run has the same order": order_without_seed,
        "does not shuffle at all": not_shuffled,
    },
    observe=what_holds_for_an_order,
)


# ---- 03.3 Fair shares


def what_holds_for_shares(f, n, world):
    shares = [ints(f(n, rank, world)) for rank in range(world)]
    given = []
    for share in shares:
        given += share
    sizes = [len(share) for share in shares]
    return {
        "nothing is left out": set(given) >= set(range(n)),
        "nothing is taken twice": len(given) == len(set(given)),
        "nothing is made up": set(given) <= set(range(n)),
        "shares differ by one at most": max(sizes) - min(sizes) <= 1,
    }


def share_of(n, rank, world):
    return range(rank, n, world)


def share_without_remainder(n, rank, world):
    size = n // world
    return range(rank * size, (rank + 1) * size)


def share_filled_up(n, rank, world):
    size = -(-n // world)  # rounded up
    return [i % n for i in range(rank * size, (rank + 1) * size)]


def share_with_remainder_at_last(n, rank, world):
    size = n // world
    end = n if rank == world - 1 else (rank + 1) * size
    return range(rank * size, end)


def everything(n, rank, world):
    return range(n)


def share_of_cases():
    yield 8, 1
    yield 8, 2
    yield 8, 3
    yield 10, 4
    yield 9984, 7


EXERCISES["03.3"] = Exercise(
    share_of,
    share_of_cases,
    mistakes={
        "drops the remainder: the last items belong to nobody, and which ones "
        "depends on the number of processes": share_without_remainder,
        "repeats items to make the shares equal, "
        "as DistributedSampler does: some count twice": share_filled_up,
        "gives the whole remainder to the last process: "
        "the others wait for it": share_with_remainder_at_last,
        "gives everything to every process": everything,
    },
    observe=what_holds_for_shares,
)
