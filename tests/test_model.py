import dataclasses
import math

import pytest
import torch
from conftest import python
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from babygpt.model import GPT, GPTConfig, KVCache, _linear

SMALL = GPTConfig(block_size=24, vocab_size=97, n_layer=3, n_head=4, n_embd=32)
SWITCHES = [{}, {"pos": "rope"}, {"act": "relu2"}, {"qk_norm": True}, {"bias": False}, dict(pos="rope", act="relu2", qk_norm=True, bias=False)]


def ids(n=24, batch=2, vocab=97):
    return torch.randint(vocab, (batch, n), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=SWITCHES, ids=str)
def model(request):
    torch.manual_seed(0)
    return GPT(dataclasses.replace(SMALL, **request.param))


def test_gpt2_124m_has_its_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(GPTConfig()).parameters()) == 124_439_808


def disturbed(hf):
    """Weights away from their start: biases of zero and gains of one would hide mistakes."""
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return hf.eval()


@pytest.mark.parametrize("act", ["gelu_new", "relu2"])
@torch.no_grad()
def test_same_logits_as_transformers_both_ways(act):
    torch.manual_seed(0)
    hf = disturbed(GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=24, n_embd=32, n_layer=3, n_head=4, activation_function=act, bos_token_id=0, eos_token_id=0)))
    ours = GPT.from_hf(hf)
    x = ids()
    torch.testing.assert_close(ours(x)[0], hf(x).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.to_hf()(x).logits, hf(x).logits, atol=1e-5, rtol=0)
    loss = hf(x, labels=x).loss  # transformers shifts the labels itself
    torch.testing.assert_close(ours(x[:, :-1], x[:, 1:])[1], loss, atol=1e-5, rtol=0)


@torch.no_grad()
def test_same_logits_as_transformers_at_full_size():
    torch.manual_seed(0)
    hf = disturbed(GPT2LMHeadModel(GPT2Config()))
    x = ids(64, 1, 50257)
    torch.testing.assert_close(GPT.from_hf(hf)(x)[0], hf(x).logits, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_without_biases_the_export_has_zero_biases():
    model = GPT(dataclasses.replace(SMALL, bias=False))
    torch.testing.assert_close(model.to_hf()(ids()).logits, model(ids())[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("switch", [{"pos": "rope"}, {"qk_norm": True}])
def test_what_transformers_gpt2_lacks_is_not_exported(switch):
    with pytest.raises(ValueError, match="train with pos='learned' and qk_norm=False"):
        GPT(dataclasses.replace(SMALL, **switch)).to_hf()


@pytest.mark.parametrize("odd", [{"activation_function": "relu"}, {"n_inner": 50}, {"scale_attn_by_inverse_layer_idx": True}])
def test_variants_of_gpt2_that_we_do_not_have_are_refused(odd):
    with pytest.raises(ValueError, match="expected a plain GPT-2"):
        GPT.from_hf(GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=24, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0, **odd)))


def test_openais_weights_load_by_name(hub):
    """As they lie on the Hub: "gpt2" without an owner, tensors without the prefix, masks among them."""
    torch.manual_seed(0)
    hf = disturbed(GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=96, eos_token_id=96)))
    repo = hub.root / "gpt2"
    repo.mkdir()
    (repo / "config.json").write_text(hf.config.to_json_string())
    plain = {k.removeprefix("transformer."): v.contiguous() for k, v in hf.state_dict().items() if k != "lm_head.weight"}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 24, 24).tril() for i in range(2)}
    save_file(plain | masks, repo / "model.safetensors", metadata={"format": "pt"})
    code = "import torch; from babygpt.model import GPT; x = torch.arange(24)[None]; print(GPT.from_hf('gpt2')(x)[0].double().sum().item())"
    done = python("-c", code, env=hub.env)
    assert done.returncode == 0, done.stdout
    assert float(done.stdout.split()[-1]) == pytest.approx(GPT.from_hf(hf)(torch.arange(24)[None])[0].double().sum().item(), abs=1e-3)
    done = python("-c", code.replace("'gpt2'", "'gpt3'"), env=hub.env)
    assert "OSError: no GPT-2 in 'gpt3': expected a folder or a model on the Hub" in done.stdout


@torch.no_grad()
@pytest.mark.parametrize("shape", [(32,), (1, 32), (1, 1, 32), (4, 32), (2, 2, 32), (5, 32), (0, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_linear_layer_is_the_same_for_few_rows(shape, dtype):
    torch.manual_seed(0)
    x, w, b = torch.randn(shape, dtype=dtype), torch.randn(50, 32, dtype=dtype), torch.randn(50, dtype=dtype)
    for bias in (b, None):
        torch.testing.assert_close(_linear(x, w, bias), F.linear(x, w, bias))


@torch.no_grad()
def test_positions_and_masks_of_ones_own(model):
    """Two texts in one row, each with positions from 0 and a mask that hides the other, are two texts."""
    x = ids(24, 1)
    pos = torch.arange(24).view(1, 24) % 10
    part = torch.arange(24) // 10
    mask = (part[:, None] == part).tril()[None]
    found = model.logits(model.hidden(x, pos=pos, mask=mask))
    torch.testing.assert_close(found, torch.cat([model(t)[0] for t in x.split([10, 10, 4], dim=1)], dim=1), atol=1e-5, rtol=0)


def test_initialisation_is_gpt2s():
    """Against transformers' own: the same standard deviation for every tensor, the scaled projections among them."""
    torch.manual_seed(0)
    shape = dict(vocab_size=5000, n_layer=6, n_head=4, n_embd=256)
    ours = dict(GPT(GPTConfig(block_size=512, **shape)).named_parameters())
    theirs = dict(GPT2LMHeadModel(GPT2Config(n_positions=512, bos_token_id=0, eos_token_id=0, **shape)).transformer.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, p in ours.items():
        assert p.std().item() == pytest.approx(theirs[name].std().item(), rel=0.03, abs=1e-8), name
        assert p.mean().item() == pytest.approx(theirs[name].mean().item(), abs=1e-3), name
    assert ours["h.0.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / math.sqrt(12), rel=0.03)


def test_loss_at_the_start_is_that_of_a_guess(model):
    assert model(ids()[:, :-1], ids()[:, 1:])[1].item() == pytest.approx(math.log(97), abs=0.15)


def test_targets_of_minus_100_do_not_count(model):
    x, y = ids()[:, :-1], ids()[:, 1:].clone()
    y[:, 10:] = -100
    torch.testing.assert_close(model(x, y)[1], model(x[:, :10], y[:, :10])[1])


@torch.no_grad()
def test_no_position_sees_the_future(model):
    x = ids()
    for t in (1, 12, 23):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % 97
        assert torch.equal(model(changed)[0][:, :t], model(x)[0][:, :t])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [5, 1, 7, 11], [23, 1]])
def test_logits_with_a_cache_are_those_without(model, pieces):
    x, cache = ids(), KVCache(model.cfg, batch=2)
    found = torch.cat([model(part, cache=cache)[0] for part in x.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(found, model(x)[0], atol=1e-5, rtol=0)
    assert cache.n == 24


def test_positions_matter(model):
    """Attention alone is blind to order; without positions these two would be equal."""
    x = ids(batch=1)
    swapped = x[:, [1, 0, *range(2, 24)]]
    assert not torch.allclose(model(x)[0][:, -1], model(swapped)[0][:, -1], atol=1e-6)


@torch.no_grad()
def test_rope_depends_on_distances_only():
    """Queries and keys moved by the same number of positions give the same scores: a cache that starts elsewhere would not be noticed."""
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(SMALL, pos="rope", n_layer=1))
    x = ids(8, 1)
    early = model(x)[0]
    later = GPT(dataclasses.replace(SMALL, pos="rope", n_layer=1))
    later.load_state_dict(model.state_dict())
    later.cos, later.sin = later.cos.roll(-5, 0), later.sin.roll(-5, 0)  # positions 5, 6, 7, …
    torch.testing.assert_close(later(x)[0], early, atol=1e-5, rtol=0)


def test_context_beyond_block_size_is_refused(model):
    with pytest.raises(ValueError, match="25 positions do not fit in block_size 24"):
        model(ids(25))
    cache = KVCache(model.cfg, batch=2)
    model(ids(20), cache=cache)
    with pytest.raises(ValueError, match="25 positions"):
        model(ids(5), cache=cache)


@pytest.mark.parametrize(
    "field, message",
    [({"n_head": 5}, "n_head must divide n_embd"), ({"pos": "sine"}, "pos 'sine'"), ({"act": "relu"}, "act 'relu'"), ({"n_layer": 0}, "positive"), (dict(pos="rope", n_embd=36, n_head=4), "must be even")],
)
def test_shapes_that_cannot_be_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **field)


def test_every_parameter_learns(model):
    model(ids()[:, :-1], ids()[:, 1:])[1].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
