import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from babygpt.generate import _letters, _pick, encode_prompt, generate, stream
from babygpt.model import GPT, GPTConfig
from babygpt.tokenizer import get_tokenizer

CFG = GPTConfig(block_size=16, vocab_size=61, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture(params=["learned", "rope"])
def model(request):
    torch.manual_seed(0)
    return GPT(dataclasses.replace(CFG, pos=request.param))


def seeded(n=0):
    return torch.Generator().manual_seed(n)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0}, {"top_k": 5, "temperature": 0.7}, {"top_p": 0.9}],
)
def test_with_and_without_cache_the_text_is_the_same(model, settings):
    prompt = torch.randint(61, (3, 4), generator=seeded())
    texts = [
        generate(model, prompt, 50, use_cache=c, generator=seeded(1), **settings)
        for c in (True, False)
    ]
    assert torch.equal(*texts) and texts[0].shape == (3, 54)
    assert torch.equal(texts[0][:, :4], prompt)


@pytest.mark.parametrize("batch", [1, 4])
def test_greedy_text_is_transformers_own(batch):
    torch.manual_seed(0)
    model = GPT(CFG)
    prompt = torch.randint(61, (batch, 4), generator=seeded())
    theirs = model.to_hf().generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(generate(model, prompt, 12, temperature=0), theirs)


def test_greedy_text_is_transformers_own_at_full_size():
    torch.manual_seed(0)
    model = GPT(GPTConfig())
    prompt = torch.randint(50_257, (2, 9), generator=seeded())
    theirs = model.to_hf().generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=8,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    assert torch.equal(generate(model, prompt, 8, temperature=0), theirs)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("n", [1, 11, 60])
def test_prompts_of_different_lengths_are_continued_as_each_alone(model, use_cache, n):
    """Beyond block_size too, where every text has a window of its own: lengths below,
    at and above 16."""
    prompts, alone = [], []
    for length in (1, 3, 15, 16, 17, 40):
        prompt = torch.randint(61, (1, length), generator=seeded(length))
        prompts.append(prompt[0].tolist())
        alone.append(generate(model, prompt, n, temperature=0)[0].tolist())
    together = generate(model, prompts, n, temperature=0, use_cache=use_cache)
    assert together == alone
    assert [len(t) for t in together] == [len(p) + n for p in prompts]


def test_the_logits_behind_the_filling_are_those_alone(model):
    """Closer than the choice of a token tells."""
    from babygpt.generate import _places

    prompts = [[5] * 9, [7, 8]]
    ids = torch.tensor([prompts[0], [0] * 7 + prompts[1]])
    pos, mask = _places(torch.tensor([0, 7]), 9, 9)
    logits = model.logits(model.hidden(ids, pos=pos, mask=mask)[:, -1])
    for row, prompt in zip(logits, prompts):
        alone = model(torch.tensor([prompt]))[0][0, -1]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)


def test_a_text_ends_at_its_end_of_text(model):
    free = generate(model, [[1], [2, 3]], 40, temperature=0)
    eot = free[0][20]
    for prompts in ([[1], [2, 3]], [[1, eot, 1], [2]]):
        ended = generate(model, prompts, 40, temperature=0, eot=eot)
        on = generate(model, prompts, 40, temperature=0)
        for prompt, text, expected in zip(prompts, ended, on):
            if eot in expected[len(prompt) :]:
                expected = expected[: expected.index(eot, len(prompt)) + 1]
            assert text == expected
    # all have ended, so it stops
    ids = generate(model, torch.tensor([[1], [1]]), 40, temperature=0, eot=eot)
    assert ids.shape[1] <= 21 and ids[0, -1] == eot and torch.equal(ids[0], ids[1])


def test_an_ended_text_is_filled_up_beside_one_that_goes_on(model):
    free = generate(model, torch.tensor([[1], [2]]), 12, temperature=0)
    ending, going_on = free[0, 1:].tolist(), free[1, 1:].tolist()
    eot = next(t for t in ending if t not in going_on)
    ids = generate(model, torch.tensor([[1], [2]]), 12, temperature=0, eot=eot)
    first = ending.index(eot) + 1
    assert torch.equal(ids[1], free[1])
    assert ids[0, first:].tolist() == [eot] * (13 - first)
    assert torch.equal(ids[0, :first], free[0, :first])


def test_the_window_starts_again_with_its_last_half(model):
    prompt = torch.randint(61, (1, 40), generator=seeded())
    assert torch.equal(
        generate(model, prompt, 1, temperature=0)[:, -1],
        generate(model, prompt[:, -8:], 1, temperature=0)[:, -1],
    )


def test_seeds(model):
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    a, b, c = (generate(model, prompt, 30, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_draws_have_the_probabilities_of_the_logits():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0]).expand(40_000, 4)
    for temperature in (0.5, 1.0, 2.0):
        drawn = _pick(logits, temperature, None, None, seeded()).flatten()
        share = torch.bincount(drawn, minlength=4) / 40_000
        expected = (logits[0] / temperature).softmax(-1)
        torch.testing.assert_close(share, expected, atol=0.01, rtol=0)


def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)
    for top_p, n_kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.81, 3), (1.0, 4)):
        drawn = _pick(logits, 1.0, None, top_p, seeded()).flatten().tolist()
        assert set(drawn) == set(range(n_kept))


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}]
)
def test_impossible_settings_are_named(model, bad):
    with pytest.raises(ValueError, match="expected ≥ 0, ≥ 1 and in"):
        generate(model, torch.zeros(1, 1, dtype=torch.int64), 1, **bad)
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, torch.zeros(1, 0, dtype=torch.int64), 1)


def test_no_graph_is_kept(model):
    assert not generate(model, torch.zeros(1, 1, dtype=torch.int64), 2).requires_grad


def test_a_prompt_does_not_end_in_spaces(gpt2, polish):
    """A lone space comes only before words that have no token with their space inside:
    after it, a model says one of them."""
    for prompt, text in (
        ("Dzień dobry  ", "Dzień dobry"),
        ("Dzień dobry", "Dzień dobry"),
        ("  a\n ", "  a\n"),
        (" ", ""),
    ):
        expected = [gpt2.eot_token, *gpt2.encode_ordinary(text)]
        assert encode_prompt(gpt2, prompt) == expected


# --- text as it comes


@pytest.fixture(scope="module")
def speaker(gpt2_small):
    torch.manual_seed(0)
    shape = dict(block_size=16, n_layer=1, n_head=2, n_embd=16)
    return GPT(GPTConfig(vocab_size=gpt2_small.n_vocab, **shape))


@pytest.fixture(scope="module")
def gpt2_small():
    # hardly more than bytes: every letter with a mark is split
    return get_tokenizer("gpt2:300")


@given(st.text())
def test_letters_are_shown_whole_and_none_is_lost(text):
    enc = get_tokenizer("gpt2:300")
    pieces = list(_letters(iter(enc.encode_ordinary(text)), enc))
    assert "".join(pieces) == text and all(pieces)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_letters_are_left_out(data):
    enc = get_tokenizer("gpt2:300")
    ids = [enc.encode_single_token(bytes([b])) for b in data]
    assert "".join(_letters(iter(ids), enc)) == data.decode(errors="ignore")


def test_a_stream_is_the_text_of_generate(speaker, gpt2_small):
    ids = torch.tensor([encode_prompt(gpt2_small, "Łódź")])
    eot = gpt2_small.eot_token
    for seed in range(5):
        how = dict(top_k=50, temperature=0.9)
        text = generate(speaker, ids, 60, generator=seeded(seed), eot=eot, **how)
        new = text[0, ids.shape[1] :].tolist()
        if eot in new:
            new = new[: new.index(eot)]
        how["generator"] = seeded(seed)
        shown = "".join(stream(speaker, gpt2_small, "Łódź ", 60, **how))
        assert shown == gpt2_small.decode_bytes(new).decode(errors="ignore")


def test_a_stream_comes_piece_by_piece_and_ends_at_end_of_text(speaker, gpt2_small):
    steps = []
    hook = speaker.ln_f.register_forward_hook(lambda *_: steps.append(1))
    pieces = stream(speaker, gpt2_small, "a", 200, temperature=0)
    assert not steps  # nothing is computed before it is asked for
    next(pieces)
    assert len(steps) < 50
    hook.remove()
    with torch.no_grad():
        silent = GPT(speaker.cfg)
        silent.ln_f.weight.zero_()
        silent.ln_f.bias.copy_(silent.wte.weight[gpt2_small.eot_token])
    assert list(stream(silent, gpt2_small, "a", temperature=0)) == []


def test_a_streams_settings_are_checked_at_once(speaker, gpt2, gpt2_small):
    with pytest.raises(ValueError, match="expected ≥ 0"):
        stream(speaker, gpt2_small, temperature=-1)
    with pytest.raises(ValueError, match="not the tokenizer it was trained with"):
        stream(speaker, gpt2)
