"""Checks for the exercises of lesson 04: the model."""

import math

import torch

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 04.1 Layer norm


def layer_norm(x, gain, bias, dim=-1, unbiased=False):
    mean = x.mean(dim, keepdim=True)
    variance = x.var(dim, keepdim=True, unbiased=unbiased)
    return (x - mean) / (variance + 1e-5).sqrt() * gain + bias


def divided_by_n_minus_1(x, gain, bias):
    return layer_norm(x, gain, bias, unbiased=True)


def normalised_over_positions(x, gain, bias):
    return layer_norm(x, gain, bias, dim=0)


def epsilon_outside(x, gain, bias):
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance.sqrt() + 1e-5) * gain + bias


def rms_norm(x, gain, bias):
    mean_square = x.square().mean(-1, keepdim=True)
    return x * (mean_square + 1e-5).rsqrt() * gain + bias


def without_gain_and_bias(x, gain, bias):
    return layer_norm(x, torch.ones(()), torch.zeros(()))


def layer_norm_cases():
    g = torch.Generator().manual_seed(0)
    for shape in (4,), (3, 4), (2, 5, 8):
        n = shape[-1]
        x = torch.randn(shape, generator=g) * 3 + 1
        yield x, torch.ones(n), torch.zeros(n)
        yield x, torch.randn(n, generator=g), torch.randn(n, generator=g)
    yield torch.randn(2, 4, generator=g) * 0.003, torch.ones(4), torch.zeros(4)


EXERCISES["04.1"] = Exercise(
    layer_norm,
    layer_norm_cases,
    mistakes={
        "divides the variance by n - 1, torch's default: "
        "a layer norm divides by n (unbiased=False)": divided_by_n_minus_1,
        "adds ε to the standard deviation: "
        "it belongs to the variance, under the root": epsilon_outside,
        "normalises over the positions: each position is normalised by itself, "
        "over its features": normalised_over_positions,
        "does not subtract the mean: that is RMS norm": rms_norm,
        "forgets gain and bias": without_gain_and_bias,
    },
)


# ---- 04.2 Causal attention


def scaled_scores(q, k):
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def attention(scores, v, dim=-1):
    """The mean of values by the scores of those that are not in the future."""
    return scores.masked_fill(future(scores), -math.inf).softmax(dim) @ v


def future(scores):
    return torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)


def causal_attention(q, k, v):
    return attention(scaled_scores(q, k), v)


def attention_to_the_future(q, k, v):
    return scaled_scores(q, k).softmax(-1) @ v


def masked_after_softmax(q, k, v):
    scores = scaled_scores(q, k)
    return scores.softmax(-1).masked_fill(future(scores), 0) @ v


def not_scaled(q, k, v):
    return attention(q @ k.transpose(-2, -1), v)


def scaled_by_d(q, k, v):
    return attention(q @ k.transpose(-2, -1) / q.shape[-1], v)


def normalised_over_queries(q, k, v):
    return attention(scaled_scores(q, k), v, dim=-2)


def causal_attention_cases():
    g = torch.Generator().manual_seed(0)
    for shape in (1, 2), (3, 4), (2, 5, 4), (2, 2, 7, 16):
        q = torch.randn(shape, generator=g)
        k = torch.randn(shape, generator=g)
        v = torch.randn(shape, generator=g)
        yield q, k, v


EXERCISES["04.2"] = Exercise(
    causal_attention,
    causal_attention_cases,
    mistakes={
        "looks into the future: position t may see 0 … t only": attention_to_the_future,
        "masks after the softmax: the weights of a row no longer add up to 1; "
        "set the scores to -inf before": masked_after_softmax,
        "does not divide by √d: the softmax hardens as heads grow": not_scaled,
        "divides by d instead of √d": scaled_by_d,
        "normalises over the queries: the weights of each query must add up to 1 "
        "over the keys (dim=-1)": normalised_over_queries,
    },
)


# ---- 04.3 Count the parameters


def n_parameters(n_layer, n_embd, vocab_size, block_size):
    from babygpt.model import GPT, GPTConfig

    with torch.device("meta"):  # shapes without memory
        model = GPT(GPTConfig(block_size, vocab_size, n_layer, 1, n_embd))
    return sum(p.numel() for p in model.parameters())


def with_output_layer(n_layer, n_embd, vocab_size, block_size):
    n = n_parameters(n_layer, n_embd, vocab_size, block_size)
    return n + vocab_size * n_embd


def without_biases(n_layer, n_embd, vocab_size, block_size):
    n = n_parameters(n_layer, n_embd, vocab_size, block_size)
    return n - 9 * n_layer * n_embd


def without_last_norm(n_layer, n_embd, vocab_size, block_size):
    n = n_parameters(n_layer, n_embd, vocab_size, block_size)
    return n - 2 * n_embd


def without_norms(n_layer, n_embd, vocab_size, block_size):
    n = n_parameters(n_layer, n_embd, vocab_size, block_size)
    return n - (4 * n_layer + 2) * n_embd


def without_positions(n_layer, n_embd, vocab_size, block_size):
    n = n_parameters(n_layer, n_embd, vocab_size, block_size)
    return n - block_size * n_embd


def n_parameters_cases():
    yield 12, 768, 50257, 1024
    yield 1, 4, 10, 3
    yield 24, 1024, 50257, 1024
    yield 4, 128, 512, 128


EXERCISES["04.3"] = Exercise(
    n_parameters,
    n_parameters_cases,
    mistakes={
        "counts the output layer: "
        "it is the embedding, used twice and stored once": with_output_layer,
        "forgets the biases: "
        "9 · n_embd in the four linear layers of a block": without_biases,
        "forgets the last layer norm": without_last_norm,
        "forgets the layer norms: "
        "two in a block and one at the end, with gain and bias each": without_norms,
        "forgets the positions: block_size · n_embd": without_positions,
    },
)
