"""Checks for the exercises of lesson 10: what a run costs."""

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 10.1 Operations of a token


def product(rows, columns):
    """A vector times a matrix: a multiplication and an addition for each number."""
    return 2 * rows * columns


def flops_of_layer(d):
    qkv = product(d, 3 * d)
    attention_output = product(d, d)
    up = product(d, 4 * d)
    down = product(4 * d, d)
    return qkv + attention_output + up + down


def flops_of_attention(n_layer, d, block_size):
    scores = product(block_size, d)
    values = product(block_size, d)
    return n_layer * (scores + values)


def forward_flops(n_layer, d, vocab_size, block_size):
    layers = n_layer * flops_of_layer(d)
    output = product(d, vocab_size)
    return layers + output + flops_of_attention(n_layer, d, block_size)


def train_flops(n_layer, d, vocab_size, block_size):
    return 3 * forward_flops(n_layer, d, vocab_size, block_size)


def forward_twice(n_layer, d, vocab_size, block_size):
    return 2 * forward_flops(n_layer, d, vocab_size, block_size)


def multiply_adds(n_layer, d, vocab_size, block_size):
    return train_flops(n_layer, d, vocab_size, block_size) / 2


def without_attention(n_layer, d, vocab_size, block_size):
    every = train_flops(n_layer, d, vocab_size, block_size)
    return every - 3 * flops_of_attention(n_layer, d, block_size)


def with_half_of_attention(n_layer, d, vocab_size, block_size):
    every = train_flops(n_layer, d, vocab_size, block_size)
    return every - 1.5 * flops_of_attention(n_layer, d, block_size)


def without_output(n_layer, d, vocab_size, block_size):
    every = train_flops(n_layer, d, vocab_size, block_size)
    return every - 3 * product(d, vocab_size)


def with_positions(n_layer, d, vocab_size, block_size):
    every = train_flops(n_layer, d, vocab_size, block_size)
    return every + 3 * product(block_size, d)


def with_one_layers_matrices(n_layer, d, vocab_size, block_size):
    every = train_flops(n_layer, d, vocab_size, block_size)
    return every - 3 * (n_layer - 1) * flops_of_layer(d)


def train_flops_cases():
    yield 1, 1, 1, 1
    yield 1, 2, 5, 3
    yield 12, 768, 50_257, 1024
    yield 4, 96, 2048, 256
    yield 12, 768, 32_000, 64


EXERCISES["10.1"] = Exercise(
    train_flops,
    train_flops_cases,
    mistakes={
        "counts the forward pass only: "
        "the backward pass costs twice as much again": forward_flops,
        "doubles: the backward pass needs two products "
        "for each one of the forward pass, which makes three": forward_twice,
        "leaves attention out: "
        "scores and their sums are products too": without_attention,
        "leaves the output layer out: it is the largest matrix of all": without_output,
        "counts a multiplication and its addition as one operation": multiply_adds,
        "counts half of attention: it has two products, "
        "and by the convention scores of the future count": with_half_of_attention,
        "counts the table of positions: "
        "it is looked up, not multiplied": with_positions,
        "counts one layer's matrices: there are n_layer": with_one_layers_matrices,
    },
)


# ---- 10.2 What the parameters cost


def state_bytes(n_params, world):
    weights = gradients = first_moments = second_moments = 4 * n_params
    buckets = 4 * n_params if world > 1 else 0
    return weights + gradients + first_moments + second_moments + buckets


def without_buckets(n_params, world):
    return 4 * n_params * 4


def with_buckets_always(n_params, world):
    return 5 * n_params * 4


def without_gradients_or_a_moment(n_params, world):
    return state_bytes(n_params, world) - 4 * n_params


def without_moments(n_params, world):
    return state_bytes(n_params, world) - 8 * n_params


def weights_only(n_params, world):
    return 4 * n_params


def state_numbers(n_params, world):
    return state_bytes(n_params, world) / 4


def state_divided(n_params, world):
    return state_bytes(n_params, world) / world


def state_of_all(n_params, world):
    return state_bytes(n_params, world) * world


def state_bytes_cases():
    yield 1, 1
    yield 16, 2
    yield 1_000, 1
    yield 124_439_808, 8
    yield 124_439_808, 16


EXERCISES["10.2"] = Exercise(
    state_bytes,
    state_bytes_cases,
    mistakes={
        "forgets DDP's buckets: from two processes on "
        "there is a copy of the gradients": without_buckets,
        "counts DDP's buckets for a single process too, "
        "which has no DDP": with_buckets_always,
        "forgets the gradients or one of AdamW's two moments: with the weights that "
        "makes four numbers a parameter": without_gradients_or_a_moment,
        "forgets AdamW's moments": without_moments,
        "counts the weights alone: training keeps much more": weights_only,
        "counts numbers, not bytes": state_numbers,
        "divides by the processes: "
        "under DDP each of them holds all of it": state_divided,
        "multiplies by the processes: asked for is one of them": state_of_all,
    },
)


# ---- 10.3 The ring


def ring_seconds(n_bytes, world, gbit):
    bits = 0.0
    for _round in "add up", "hand round":
        for _turn in range(1, world):
            bits += 8 * n_bytes / world
    return bits / (gbit * 1e9)


def one_round(n_bytes, world, gbit):
    return ring_seconds(n_bytes, world, gbit) / 2


def bytes_for_bits(n_bytes, world, gbit):
    return ring_seconds(n_bytes, world, gbit) / 8


def all_of_it_twice(n_bytes, world, gbit):
    return 2 * 8 * n_bytes / (gbit * 1e9)


def all_in_every_turn(n_bytes, world, gbit):
    return ring_seconds(n_bytes, world, gbit) * world


def all_to_each(n_bytes, world, gbit):
    return ring_seconds(n_bytes, world, gbit) * world / 2


def ring_seconds_cases():
    yield 1_000_000_000, 2, 8.0
    yield 1_000_000_000, 4, 8.0
    yield 497_759_232, 8, 100.0
    yield 497_759_232, 16, 10.0
    yield 497_759_232, 1, 10.0


EXERCISES["10.3"] = Exercise(
    ring_seconds,
    ring_seconds_cases,
    mistakes={
        "counts one round: the sums must be handed round as well": one_round,
        "takes bytes for bits: a byte has eight": bytes_for_bits,
        "sends all of it twice: a process sends `world - 1` pieces of `world` "
        "in each round": all_of_it_twice,
        "sends everything in every turn, "
        "or adds up what all send at the same time: "
        "in a turn each sends one piece": all_in_every_turn,
        "sends everything to each of the others: "
        "what goes round are pieces": all_to_each,
    },
)
