"""Scoring HellaSwag items with a model of 124M parameters, against lm-evaluation-harness and against a row an ending."""

import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.hellaswag.utils import process_docs
from side_by_side import Case
from transformers import PreTrainedTokenizerFast

from babygpt.hellaswag import _encode, _row, _texts, load_hellaswag, score
from babygpt.model import GPT, GPTConfig
from babygpt.tokenizer import get_tokenizer, save_tokenizer


def harness(model, tokenizer, items) -> np.ndarray:
    """The choice under acc for each item, by lm-evaluation-harness' own model."""
    docs = process_docs(Dataset.from_list(items))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    requests = [Instance("loglikelihood", d, (d["query"], " " + c), i) for i, d in enumerate(docs) for c in d["choices"]]
    return np.array([ll for ll, _ in lm.loglikelihood(requests, disable_tqdm=True)]).reshape(-1, 4).argmax(1)


@torch.no_grad()
def four_rows(model, enc, items) -> np.ndarray:
    """The same, as scripts do it: an item at a time, its four rows padded to the longest, all logits."""
    chosen = []
    for item in items:
        ctx, endings = _texts(item, "lm-eval")
        pairs = [_encode(enc, ctx, e, "lm-eval") for e in endings]
        width = max(len(a) + len(b) for a, b in pairs)
        ids = torch.tensor([a + b + [0] * (width - len(a) - len(b)) for a, b in pairs])
        logp = model(ids[:, :-1])[0].log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
        chosen.append(int(torch.stack([logp[k, len(a) - 1 : len(a) + len(b) - 1].sum() for k, (a, b) in enumerate(pairs)]).argmax()))
    return np.array(chosen)


def saved(enc, items) -> float:
    """How many times fewer multiplications the matrices of the blocks do when a context is read once instead of four times."""
    rows = [[_encode(enc, ctx, e, "lm-eval") for e in endings] for ctx, endings in (_texts(item, "lm-eval") for item in items)]
    return sum(len(a) + len(b) - 1 for four in rows for a, b in four) / sum(len(_row(four, 1025).ids) for four in rows)


def long_contexts(items: list[dict], n: int) -> list[dict]:
    """Items whose context is preceded by those of others: some 600 tokens each."""
    texts = [item["ctx"] for item in items]
    return [item | {"ctx_a": " ".join([*(texts[(i + j) % len(texts)] for j in range(1, 6)), item["ctx_a"]])} for i, item in enumerate(items[:n])]


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    enc, model = get_tokenizer("gpt2"), GPT(GPTConfig())
    with tempfile.TemporaryDirectory() as dir:
        save_tokenizer(enc, dir)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{dir}/tokenizer.json", eos_token="<|endoftext|>")
    hf, items = model.to_hf(), load_hellaswag("embedded")
    ours = lambda items: score(model, enc, items, style="lm-eval").predictions["acc"]
    for name, some in (("embedded", items), ("bajki", load_hellaswag("bajki")[:8]), ("long contexts", long_contexts(items, 6))):
        ratio, agree = saved(enc, some), (ours(some) == harness(hf, tokenizer, some)).all()
        note = f"sharing saves {ratio:.2f}×; predictions {'equal' if agree else 'DIFFER'}"
        goal = 1.8 if name == "embedded" else 1.15 * ratio
        yield Case(f"score {len(some)} items, {name}", "lm-eval HFLM, batch 16", lambda: ours(some), lambda: harness(hf, tokenizer, some), len(some), "items/s", goal, note)
    agree = (ours(items) == four_rows(model, enc, items)).all()
    note = f"predictions {'equal' if agree else 'DIFFER'}"
    yield Case(f"score {len(items)} items, embedded", "an item a batch, four rows", lambda: ours(items), lambda: four_rows(model, enc, items), len(items), "items/s", 2.0, note)
