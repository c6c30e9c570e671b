import dataclasses

import pytest
import torch

from babygpt.generate import _pick, encode_prompt, generate
from babygpt.model import GPT, GPTConfig

CFG = GPTConfig(block_size=16, vocab_size=61, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture(params=["learned", "rope"])
def model(request):
    torch.manual_seed(0)
    return GPT(dataclasses.replace(CFG, pos=request.param))


def seeded(n=0):
    return torch.Generator().manual_seed(n)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_k": 5, "temperature": 0.7}, {"top_p": 0.9}])
def test_with_and_without_cache_the_text_is_the_same(model, settings):
    prompt = torch.randint(61, (3, 4), generator=seeded())
    texts = [generate(model, prompt, 50, use_cache=c, generator=seeded(1), **settings) for c in (True, False)]
    assert torch.equal(*texts) and texts[0].shape == (3, 54) and torch.equal(texts[0][:, :4], prompt)


def test_greedy_text_is_transformers_own():
    torch.manual_seed(0)
    model = GPT(CFG)
    prompt = torch.randint(61, (2, 4), generator=seeded())
    theirs = model.to_hf().generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert torch.equal(generate(model, prompt, 12, temperature=0), theirs)


def test_the_window_starts_again_with_its_last_half(model):
    prompt = torch.randint(61, (1, 40), generator=seeded())
    assert torch.equal(generate(model, prompt, 1, temperature=0)[:, -1], generate(model, prompt[:, -8:], 1, temperature=0)[:, -1])


def test_seeds(model):
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    a, b, c = (generate(model, prompt, 30, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_draws_have_the_probabilities_of_the_logits():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0]).expand(40_000, 4)
    for temperature in (0.5, 1.0, 2.0):
        share = torch.bincount(_pick(logits, temperature, None, None, seeded()).flatten(), minlength=4) / 40_000
        torch.testing.assert_close(share, (logits[0] / temperature).softmax(-1), atol=0.01, rtol=0)


def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)
    for top_p, kept in ((0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.81, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        assert set(_pick(logits, 1.0, None, top_p, seeded()).flatten().tolist()) == kept


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}])
def test_impossible_settings_are_named(model, bad):
    with pytest.raises(ValueError, match="expected ≥ 0, ≥ 1 and in"):
        generate(model, torch.zeros(1, 1, dtype=torch.int64), 1, **bad)
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, torch.zeros(1, 0, dtype=torch.int64), 1)


def test_no_graph_is_kept(model):
    assert not generate(model, torch.zeros(1, 1, dtype=torch.int64), 2).requires_grad


def test_a_prompt_does_not_end_in_spaces(gpt2, polish):
    """A lone space comes only before words that have no token with their space inside: after it, a model says one of them."""
    assert encode_prompt(gpt2, "Dzień dobry  ") == encode_prompt(gpt2, "Dzień dobry") == [gpt2.eot_token, *gpt2.encode_ordinary("Dzień dobry")]
    assert encode_prompt(gpt2, "  a\n ") == [gpt2.eot_token, *gpt2.encode_ordinary("  a\n")] and encode_prompt(gpt2, " ") == [gpt2.eot_token]
