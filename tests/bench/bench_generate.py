"""Continuing text with a model of 124M parameters and a KV cache, against
`transformers`' own `generate` on the same weights."""

from collections.abc import Iterator
from functools import partial

import torch
from side_by_side import Case, seconds

from babygpt.generate import generate
from babygpt.model import GPT, GPTConfig

NEW = 64  # tokens


def bandwidth() -> float:
    """Bytes a second at which this machine reads memory: the sum of half a gigabyte,
    the best of some rounds."""
    block = torch.ones(2**27)
    return block.numel() * 4 / min(seconds(block.sum) for _ in range(10))


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    model = GPT(GPTConfig())
    hf, speed = model.to_hf(), bandwidth()
    n_bytes = {torch.float32: 4, torch.bfloat16: 2}
    # of positions, one row is read
    weights = sum(p.numel() for p in model.parameters()) - model.wpe.weight.numel()

    def theirs(net, prompt):
        return net.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )

    half, hf_half = GPT(model.cfg).bfloat16(), model.to_hf().bfloat16()
    half.load_state_dict(model.state_dict())
    for batch in (1, 4):
        prompt = torch.randint(50_257, (batch, 32))
        text = generate(model, prompt, NEW, temperature=0)
        equal = torch.equal(text, theirs(hf, prompt))
        for net, net_hf, what, goal in (
            (model, hf, "float32", 1.2),
            (half, hf_half, "bfloat16", 1.2),
            (half, hf, "bfloat16 against float32", 2.0),
        ):
            ours = partial(generate, net, prompt, NEW, temperature=0)
            peer = partial(theirs, net_hf, prompt)
            # steps a second, were weights all that is read
            bound = speed / (weights * n_bytes[net.wte.weight.dtype])
            share = NEW / min(seconds(ours) for _ in range(3)) / bound
            note = f"{share:.0%} of the bound by memory ({speed / 1e9:.0f} GB/s)"
            if net is model:
                note += f"; texts {'equal' if equal else 'DIFFER'}"
            yield Case(
                f"generate {NEW} tokens, batch {batch}, {what}",
                "transformers, use_cache",
                ours,
                peer,
                batch * NEW,
                "tokens/s",
                goal,
                note,
            )
