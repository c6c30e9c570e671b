"""Checks for the exercises of lesson 05: training."""

import math

import torch

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 05.1 The schedule


def cosine(lr, min_lr, done):
    """From `lr` to `min_lr` along half a cosine while `done` goes from 0 to 1."""
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def share_done(step, max_steps, warmup_steps):
    """How much of the steps after the warm-up is done; beyond the last, more than 1."""
    return (step - warmup_steps) / (max_steps - warmup_steps)


def rate(step, max_steps, warmup_steps, lr, min_lr):
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    return cosine(lr, min_lr, min(share_done(step, max_steps, warmup_steps), 1.0))


def rate_from_0(step, max_steps, warmup_steps, lr, min_lr):
    if step < warmup_steps:
        return lr * step / warmup_steps
    return rate(step, max_steps, warmup_steps, lr, min_lr)


def rate_to_0(step, max_steps, warmup_steps, lr, min_lr):
    return rate(step, max_steps, warmup_steps, lr, 0.0)


def rate_with_warmup_in_cosine(step, max_steps, warmup_steps, lr, min_lr):
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    return cosine(lr, min_lr, min(step / max_steps, 1.0))


def rate_that_rises_again(step, max_steps, warmup_steps, lr, min_lr):
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    return cosine(lr, min_lr, share_done(step, max_steps, warmup_steps))


def rate_in_a_straight_line(step, max_steps, warmup_steps, lr, min_lr):
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    done = min(share_done(step, max_steps, warmup_steps), 1.0)
    return min_lr + (lr - min_lr) * (1 - done)


def rate_cases():
    steps = 0, 1, 9, 10, 11, 15, 50, 99, 100, 150, 999, 1000, 5000, 10_000
    for step in steps:
        yield step, 100, 10, 1.0, 0.1
    for step in steps:
        yield step, 10_000, 1_000, 6e-4, 6e-5
    for step in steps:
        yield step, 20, 0, 1.0, 0.0


EXERCISES["05.1"] = Exercise(
    rate,
    rate_cases,
    mistakes={
        "begins with a rate of 0: "
        "the first step would change nothing; use step + 1": rate_from_0,
        "falls to 0 instead of min_lr": rate_to_0,
        "counts the warm-up as part of the cosine: "
        "it jumps where the warm-up ends": rate_with_warmup_in_cosine,
        "rises again after max_steps: a run that is made longer "
        "would climb the cosine; stay at min_lr": rate_that_rises_again,
        "falls in a straight line: "
        "the cosine is flat at both ends": rate_in_a_straight_line,
    },
)


# ---- 05.2 A batch in pieces


class Line(torch.nn.Module):
    """The smallest model called as GPT is: (x, y) to (prediction, mean loss)."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, x, y):
        prediction = x @ self.w
        return prediction, (prediction - y).square().mean()


def gradient(f, model, x, y, pieces):
    f(model, x, y, pieces)
    return model.w.grad


def accumulate(model, x, y, pieces):
    model(x, y)[1].backward()


def add_means(model, x, y, pieces):
    for x_piece, y_piece in zip(x.chunk(pieces), y.chunk(pieces)):
        loss = model(x_piece, y_piece)[1]
        loss.backward()


def mean_of_means(model, x, y, pieces):
    for x_piece, y_piece in zip(x.chunk(pieces), y.chunk(pieces)):
        loss = model(x_piece, y_piece)[1]
        (loss / pieces).backward()


def last_piece_by_rows(model, x, y, pieces):
    for x_piece, y_piece in zip(x.chunk(pieces), y.chunk(pieces)):
        model.zero_grad()
        loss = model(x_piece, y_piece)[1]
        (loss * (len(x_piece) / len(x))).backward()


def last_piece(model, x, y, pieces):
    for x_piece, y_piece in zip(x.chunk(pieces), y.chunk(pieces)):
        model.zero_grad()
        loss = model(x_piece, y_piece)[1]
        loss.backward()


def last_piece_by_pieces(model, x, y, pieces):
    for x_piece, y_piece in zip(x.chunk(pieces), y.chunk(pieces)):
        model.zero_grad()
        loss = model(x_piece, y_piece)[1]
        (loss / pieces).backward()


def accumulate_cases():
    g = torch.Generator().manual_seed(0)
    for rows, pieces in (4, 1), (4, 2), (6, 3), (5, 2), (7, 3):
        x = torch.randn(rows, 3, generator=g)
        y = torch.randn(rows, generator=g)
        yield Line(), x, y, pieces


EXERCISES["05.2"] = Exercise(
    accumulate,
    accumulate_cases,
    mistakes={
        "adds the means up: "
        "divide each loss, or the gradient is `pieces` times too large": add_means,
        "weighs pieces of different sizes alike: a mean of means is not the mean; "
        "weigh each by its rows": mean_of_means,
        "clears the gradients inside the loop: "
        "only the last piece is left": last_piece_by_rows,
        "clears the gradients inside the loop, and does not divide": last_piece,
        "clears the gradients inside the loop: "
        "only the last piece is left, divided by all": last_piece_by_pieces,
    },
    observe=gradient,
)


# ---- 05.3 Clipping


def scaled(grads, factor):
    return [grad * factor for grad in grads]


def norm(grads):
    return math.sqrt(sum(grad.square().sum().item() for grad in grads))


def clip(grads, max_norm):
    return scaled(grads, min(1.0, max_norm / norm(grads)))


def clip_each(grads, max_norm):
    return [clip([grad], max_norm)[0] for grad in grads]


def clamp_each(grads, max_norm):
    return [grad.clamp(-max_norm, max_norm) for grad in grads]


def scale_to_max_norm(grads, max_norm):
    return scaled(grads, max_norm / norm(grads))


def clip_by_square(grads, max_norm):
    return scaled(grads, min(1.0, max_norm / norm(grads) ** 2))


def clip_cases():
    g = torch.Generator().manual_seed(0)
    yield [torch.tensor([3.0]), torch.tensor([4.0])], 1.0
    yield [torch.tensor([0.3, 0.4])], 1.0
    for n in range(1, 6):
        yield [torch.randn(i + 1, generator=g) * n for i in range(n)], 1.5


EXERCISES["05.3"] = Exercise(
    clip,
    clip_cases,
    mistakes={
        "clips every tensor by itself: "
        "the direction of the step changes; there is one norm over all": clip_each,
        "cuts every number at ±max_norm: the direction of the step changes": clamp_each,
        "makes small gradients larger: "
        "a norm below max_norm stays as it is": scale_to_max_norm,
        "forgets the root: the norm is √ of the sum of squares": clip_by_square,
    },
)
