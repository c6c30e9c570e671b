import dataclasses
import math

import pytest
import torch
from conftest import python
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

import babygpt.engine.kernels
from babygpt.engine.kernels import linear, piecewise_loss
from babygpt.model import GPT, GPTConfig, KVCache

SMALL = GPTConfig(block_size=24, vocab_size=97, n_layer=3, n_head=4, n_embd=32)
SWITCHES = [
    {},
    {"pos": "rope"},
    {"act": "relu2"},
    {"qk_norm": True},
    {"bias": False},
    dict(pos="rope", act="relu2", qk_norm=True, bias=False),
]


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
    """Weights away from their start: biases of zero and gains of one hide mistakes."""
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return hf.eval()


def small_gpt2(**settings):
    """transformers' GPT-2 in the shape of SMALL."""
    shape = dict(vocab_size=97, n_positions=24, n_embd=32, n_layer=3, n_head=4)
    ends = dict(bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**(shape | ends | settings)))


def close(found, expected, atol, rtol=0.0):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("act", ["gelu_new", "relu2"])
@torch.no_grad()
def test_same_logits_as_transformers_both_ways(act):
    torch.manual_seed(0)
    hf = disturbed(small_gpt2(activation_function=act))
    ours = GPT.from_hf(hf)
    x = ids()
    close(ours(x)[0], hf(x).logits, atol=1e-4)
    close(ours.to_hf()(x).logits, hf(x).logits, atol=1e-5)
    loss = hf(x, labels=x).loss  # transformers shifts the labels itself
    close(ours(x[:, :-1], x[:, 1:])[1], loss, atol=1e-5)


@torch.no_grad()
def test_same_logits_as_transformers_at_full_size():
    torch.manual_seed(0)
    hf = disturbed(GPT2LMHeadModel(GPT2Config()))
    x = ids(64, 1, 50257)
    close(GPT.from_hf(hf)(x)[0], hf(x).logits, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_without_biases_the_export_has_zero_biases():
    model = GPT(dataclasses.replace(SMALL, bias=False))
    close(model.to_hf()(ids()).logits, model(ids())[0], atol=1e-5)


@pytest.mark.parametrize("switch", [{"pos": "rope"}, {"qk_norm": True}])
def test_what_transformers_gpt2_lacks_is_not_exported(switch):
    with pytest.raises(ValueError, match="train with pos='learned' and qk_norm=False"):
        GPT(dataclasses.replace(SMALL, **switch)).to_hf()


@pytest.mark.parametrize(
    "odd",
    [
        {"activation_function": "relu"},
        {"n_inner": 50},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_variants_of_gpt2_that_we_do_not_have_are_refused(odd):
    with pytest.raises(ValueError, match="expected a plain GPT-2"):
        GPT.from_hf(small_gpt2(n_layer=1, **odd))


SUM_OF_LOGITS = """
import sys, torch
from babygpt.model import GPT
x = torch.arange(24)[None]
print(GPT.from_hf(sys.argv[1])(x)[0].double().sum().item())
"""


def test_openais_weights_load_by_name(hub):
    """As they lie on the Hub: "gpt2" without an owner, tensors without the prefix,
    masks among them."""
    torch.manual_seed(0)
    hf = disturbed(small_gpt2(n_layer=2, bos_token_id=96, eos_token_id=96))
    repo = hub.root / "gpt2"
    repo.mkdir()
    (repo / "config.json").write_text(hf.config.to_json_string())
    tensors = hf.state_dict()
    del tensors["lm_head.weight"]
    plain = {
        name.removeprefix("transformer."): tensor.contiguous()
        for name, tensor in tensors.items()
    }
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 24, 24).tril() for i in range(2)}
    save_file(plain | masks, repo / "model.safetensors", metadata={"format": "pt"})
    done = python("-c", SUM_OF_LOGITS, "gpt2", env=hub.env)
    assert done.returncode == 0, done.stdout
    logits = GPT.from_hf(hf)(torch.arange(24)[None])[0]
    expected = logits.double().sum().item()
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-3)
    done = python("-c", SUM_OF_LOGITS, "gpt3", env=hub.env)
    message = "OSError: no GPT-2 in 'gpt3': expected a folder or a model on the Hub"
    assert message in done.stdout


@torch.no_grad()
@pytest.mark.parametrize(
    "shape", [(32,), (1, 32), (1, 1, 32), (4, 32), (2, 2, 32), (5, 32), (0, 32)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_linear_layer_is_the_same_for_few_rows(shape, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    w = torch.randn(50, 32, dtype=dtype)
    b = torch.randn(50, dtype=dtype)
    for bias in (b, None):
        torch.testing.assert_close(linear(x, w, bias), F.linear(x, w, bias))


@torch.no_grad()
def test_positions_and_masks_of_ones_own(model):
    """Texts in one row, each with positions from 0 and a mask that hides the others,
    are as each alone."""
    x = ids(24, 1)
    pos = torch.arange(24).view(1, 24) % 10
    part = torch.arange(24) // 10
    mask = (part[:, None] == part).tril()[None]
    found = model.logits(model.hidden(x, pos=pos, mask=mask))
    alone = [model(text)[0] for text in x.split([10, 10, 4], dim=1)]
    close(found, torch.cat(alone, dim=1), atol=1e-5)


def test_initialisation_is_gpt2s():
    """Against transformers' own: the same standard deviation for every tensor, the
    scaled projections among them."""
    torch.manual_seed(0)
    shape = dict(vocab_size=5000, n_layer=6, n_head=4, n_embd=256)
    ours = dict(GPT(GPTConfig(block_size=512, **shape)).named_parameters())
    hf = small_gpt2(n_positions=512, **shape)
    theirs = dict(hf.transformer.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, p in ours.items():
        mean, std = theirs[name].mean().item(), theirs[name].std().item()
        assert p.std().item() == pytest.approx(std, rel=0.03, abs=1e-8), name
        assert p.mean().item() == pytest.approx(mean, abs=1e-3), name
    scaled = ours["h.0.mlp.c_proj.weight"].std().item()
    assert scaled == pytest.approx(0.02 / math.sqrt(12), rel=0.03)


def test_loss_at_the_start_is_that_of_a_guess(model):
    loss = model(ids()[:, :-1], ids()[:, 1:])[1]
    assert loss.item() == pytest.approx(math.log(97), abs=0.15)


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
    found = [model(part, cache=cache)[0] for part in x.split(pieces, dim=1)]
    close(torch.cat(found, dim=1), model(x)[0], atol=1e-5)
    assert cache.n == 24


def test_positions_matter(model):
    """Attention alone is blind to order; without positions these two would be equal."""
    x = ids(batch=1)
    swapped = x[:, [1, 0, *range(2, 24)]]
    assert not torch.allclose(model(x)[0][:, -1], model(swapped)[0][:, -1], atol=1e-6)


@torch.no_grad()
def test_rope_depends_on_distances_only():
    """Queries and keys moved by the same number of positions give the same scores: a
    cache that starts elsewhere would not be noticed."""
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(SMALL, pos="rope", n_layer=1))
    x = ids(8, 1)
    early = model(x)[0]
    later = GPT(dataclasses.replace(SMALL, pos="rope", n_layer=1))
    later.load_state_dict(model.state_dict())
    # positions 5, 6, 7, …
    later.cos, later.sin = later.cos.roll(-5, 0), later.sin.roll(-5, 0)
    close(later(x)[0], early, atol=1e-5)


def test_context_beyond_block_size_is_refused(model):
    with pytest.raises(ValueError, match="25 positions do not fit in block_size 24"):
        model(ids(25))
    cache = KVCache(model.cfg, batch=2)
    model(ids(20), cache=cache)
    with pytest.raises(ValueError, match="25 positions"):
        model(ids(5), cache=cache)


@pytest.mark.parametrize(
    "field, message",
    [
        ({"n_head": 5}, "n_head must divide n_embd"),
        ({"pos": "sine"}, "pos 'sine'"),
        ({"act": "relu"}, "act 'relu'"),
        ({"n_layer": 0}, "positive"),
        (dict(pos="rope", n_embd=36, n_head=4), "must be even"),
    ],
)
def test_shapes_that_cannot_be_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **field)


def test_every_parameter_learns(model):
    model(ids()[:, :-1], ids()[:, 1:])[1].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum(), name


def gradients(loss, tensors):
    return torch.autograd.grad(loss, [t for t in tensors if t.requires_grad])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 32), (3, 7, 32), (64, 32)])
@pytest.mark.parametrize(
    "learns", [(True, True, True), (True, False, False), (False, True, True)]
)
def test_a_linear_layer_has_the_same_gradients(dtype, shape, learns):
    torch.manual_seed(0)
    args = [
        torch.randn(s, dtype=dtype).requires_grad_(need)
        for s, need in zip((shape, (50, 32), (50,)), learns)
    ]
    atol = 1e-3 if dtype == torch.float32 else 1e-10

    def gradients_of(layer, args):
        return gradients(layer(*args).sum() + layer(*args).square().sum(), args)

    for some in (args[:2], args):  # without and with a bias
        expected = gradients_of(F.linear, some)
        close(gradients_of(linear, some), expected, atol=atol, rtol=1e-5)
    turned = torch.randn(32, 9, dtype=dtype).t()  # not contiguous
    torch.testing.assert_close(linear(turned, *args[1:]), F.linear(turned, *args[1:]))


def test_a_linear_layer_under_autocast():
    x, w = torch.randn(9, 32), torch.randn(50, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w).dtype == torch.bfloat16


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(2, 60),
    st.integers(1, 200),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_loss_in_pieces_is_the_loss(n, vocab, at_once, dtype, ignored, seed):
    torch.manual_seed(seed)
    # halved, so that the logits' last bits are below the tolerance
    hidden = (0.5 * torch.randn(n, 16, dtype=dtype)).requires_grad_()
    weight = (0.5 * torch.randn(vocab, 16, dtype=dtype)).requires_grad_()
    targets = torch.randint(vocab, (n,)).masked_fill(torch.rand(n) < ignored, -100)
    targets[0] = vocab - 1
    with pytest.MonkeyPatch.context() as patch:
        # a row at a time, some of them, all
        patch.setattr(babygpt.engine.kernels, "LOGITS_AT_ONCE", at_once)
        found = piecewise_loss(hidden, weight, targets)
    expected = F.cross_entropy(F.linear(hidden, weight), targets)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    close(found, expected, atol=tolerance, rtol=tolerance)
    found = gradients(3 * found, (hidden, weight))
    expected = gradients(3 * expected, (hidden, weight))
    close(found, expected, atol=tolerance, rtol=tolerance)


def test_loss_in_pieces_of_nothing_and_of_too_much():
    hidden, weight = (torch.randn(k, 16, requires_grad=True) for k in (4, 9))
    loss = piecewise_loss(hidden, weight, torch.full((4,), -100))
    # as F.cross_entropy has it
    assert loss.isnan()
    assert not any(g.any() for g in gradients(loss, (hidden, weight)))
    for bad in (9, -1):
        with pytest.raises((IndexError, RuntimeError)):
            piecewise_loss(hidden, weight, torch.tensor([0, 1, bad, 2]))


def test_loss_in_pieces_under_autocast(monkeypatch):
    """Products in bfloat16, the softmax not: the loss is that of float32 logits, and
    gradients of float32 weights are float32."""
    torch.manual_seed(0)
    monkeypatch.setattr(babygpt.engine.kernels, "LOGITS_AT_ONCE", 16 * 300)
    hidden = torch.randn(90, 64, requires_grad=True)
    weight = (0.1 * torch.randn(300, 64)).requires_grad_()
    targets = torch.randint(300, (90,))
    with torch.autocast("cpu", torch.bfloat16):
        found = piecewise_loss(hidden, weight, targets)
        expected = F.cross_entropy(F.linear(hidden, weight).float(), targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    found = gradients(found, (hidden, weight))
    exact = F.cross_entropy(F.linear(hidden, weight), targets)
    for a, b in zip(found, gradients(exact, (hidden, weight))):
        assert a.dtype == torch.float32 and (a - b).norm() < 0.01 * b.norm()


class Wrapped(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def with_ddp(model):
    return torch.nn.parallel.DistributedDataParallel(model)


@pytest.fixture
def world():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "wrap",
    [lambda m: m, Wrapped, with_ddp, lambda m: torch.compile(m, backend="aot_eager")],
    ids=["bare", "wrapped", "ddp", "compiled"],
)
def test_model_gives_its_loss_alone(world, wrap):
    """Gradients of two micro-batches add up to those of the plain loss, the tied
    embedding's among them."""
    torch.manual_seed(0)
    model = GPT(SMALL).double()
    net, x, y = wrap(model), ids(23), ids()[:, 1:].clone()
    y[0, :9] = -100
    sides = []
    for alone in (True, False):
        model.zero_grad()
        for _ in range(2):
            logits, loss = net(x, y, return_logits=not alone)
            (loss / 2).backward()
        assert (logits is None) == alone
        sides.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*sides, atol=1e-12, rtol=1e-9)


def test_loss_alone_without_a_way_back(model):
    x, y = ids()[:, :-1], ids()[:, 1:]
    expected = model(x, y)[1]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            loss = model(x, y, return_logits=False)[1]
            assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    model.wte.requires_grad_(False)  # only what is below learns
    alone = gradients(model(x, y, return_logits=False)[1], model.parameters())
    for a, b in zip(alone, gradients(expected, model.parameters())):
        close(a, b, atol=1e-6, rtol=1e-4)
    loss = model.requires_grad_(False)(x, y, return_logits=False)[1]
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ValueError, match="needs targets"):
        model(x, return_logits=False)


def test_a_second_way_back_is_refused(model):
    loss = model(ids()[:, :-1], ids()[:, 1:], return_logits=False)[1]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives, backward too."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.n = max(self.n, leaf.numel())
        return out


def test_the_logits_are_never_all_there(monkeypatch):
    monkeypatch.setattr(babygpt.engine.kernels, "LOGITS_AT_ONCE", 5 * 5000)
    model, x = GPT(dataclasses.replace(SMALL, vocab_size=5000)), ids(24, 8, 5000)
    logits, embedding = 8 * 24 * 5000, 5000 * 32
    # without the logits, the largest left is the embedding's gradient
    for alone, n in ((False, logits), (True, embedding)):
        with Largest() as largest:
            model(x, x, return_logits=not alone)[1].backward()
        assert largest.n == n
