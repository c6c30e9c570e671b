"""A training step (forward, backward, clip, AdamW), against `transformers`' GPT-2 with
its own loss, on the same weights and data."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from side_by_side import Case

from babygpt.model import GPT, GPTConfig
from babygpt.train import PRESETS, TrainConfig, make_optimizer

ALIKE = 5  # steps whose losses are compared


def step(
    net: torch.nn.Module,
    loss_of: Callable,
    optimizer: torch.optim.Optimizer,
    cfg: TrainConfig,
    ids: torch.Tensor,
) -> float:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=cfg.dtype == "bfloat16"):
        loss = loss_of(net, ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.grad_clip)
    optimizer.step()
    return loss.item()


def our_loss(net: GPT, ids: torch.Tensor) -> torch.Tensor:
    # as transformers shifts its labels
    targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    return net(ids, targets, return_logits=False)[1]


def their_loss(net: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return net(ids, labels=ids, use_cache=False).loss


def case(
    what: str,
    shape: GPTConfig,
    cfg: TrainConfig,
    rows: int,
    fused: bool,
    goal: float,
    repeat: int,
) -> Case:
    torch.manual_seed(0)
    model = GPT(shape)
    tokens = torch.randint(shape.vocab_size, (ALIKE, rows, cfg.block_size))
    hf = model.to_hf().train()
    groups = []
    for group in make_optimizer(hf, cfg).param_groups:
        groups.append({k: group[k] for k in ("params", "weight_decay")})
    theirs = torch.optim.AdamW(
        groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), fused=fused or None
    )
    ours = partial(step, model, our_loss, make_optimizer(model, cfg), cfg)
    peer = partial(step, hf, their_loss, theirs, cfg)
    apart = max(abs(ours(ids) - peer(ids)) for ids in tokens)

    def run(one):
        for i in range(repeat):
            one(tokens[i % ALIKE])

    name = f"{what}, {rows} × {cfg.block_size} tokens, {cfg.dtype}"
    note = f"losses of the first {ALIKE} steps at most {apart:.0e} nats apart"
    return Case(
        name,
        f"transformers, AdamW {'fused' if fused else 'as it comes'}",
        partial(run, ours),
        partial(run, peer),
        repeat * tokens[0].numel(),
        "tokens/s",
        goal,
        note,
    )


def cases() -> Iterator[Case]:
    laptop = PRESETS["laptop"]
    # the laptop's shape, with switches as GPT-2 has them
    shape = (laptop.n_layer, laptop.n_head, laptop.n_embd)
    small, large = GPTConfig(laptop.block_size, 2048, *shape), GPTConfig()
    for dtype in ("float32", "bfloat16"):
        of_small = TrainConfig(dtype=dtype)
        of_large = TrainConfig(block_size=256, lr=6e-4, dtype=dtype)
        for fused, goal in ((False, 1.3), (True, 1.1)):
            how = dict(fused=fused, goal=goal)
            yield case("train GPT-2 124M", large, of_large, rows=2, repeat=2, **how)
            name = "train the laptop's shape"
            yield case(name, small, of_small, rows=8, repeat=10, **how)
