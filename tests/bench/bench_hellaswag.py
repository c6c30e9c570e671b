"""Scoring HellaSwag items with a model of 124M parameters, against
lm-evaluation-harness and against a row an ending."""

import tempfile
from collections.abc import Iterator
from functools import partial

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
    requests = []
    for i, doc in enumerate(docs):
        for choice in doc["choices"]:
            asked = doc["query"], " " + choice
            requests.append(Instance("loglikelihood", doc, asked, i))
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    logliks = [loglik for loglik, _ in answers]
    return np.array(logliks).reshape(-1, 4).argmax(1)


@torch.no_grad()
def four_rows(model, enc, items) -> np.ndarray:
    """The same, as scripts do it: an item at a time, its four rows padded to the
    longest, all logits."""
    chosen = []
    for item in items:
        pairs = encoded(enc, item)
        width = max(len(a) + len(b) for a, b in pairs)
        ids = torch.tensor([a + b + [0] * (width - len(a) - len(b)) for a, b in pairs])
        logp = model(ids[:, :-1])[0].log_softmax(-1)
        logp = logp.gather(2, ids[:, 1:, None])[:, :, 0]
        sums = []
        for row, (a, b) in zip(logp, pairs):
            sums.append(row[len(a) - 1 : len(a) + len(b) - 1].sum())
        chosen.append(int(torch.stack(sums).argmax()))
    return np.array(chosen)


def encoded(enc, item) -> list[tuple[list[int], list[int]]]:
    """(context, ending) of the four endings, as ids."""
    ctx, endings = _texts(item, "lm-eval")
    return [_encode(enc, ctx, ending, "lm-eval") for ending in endings]


def saved(enc, items) -> float:
    """How many times fewer multiplications the matrices of the blocks do when a context
    is read once instead of four times."""
    apart = shared = 0
    for item in items:
        pairs = encoded(enc, item)
        apart += sum(len(a) + len(b) - 1 for a, b in pairs)
        shared += len(_row(pairs, 1025).ids)
    return apart / shared


def long_contexts(items: list[dict], n: int) -> list[dict]:
    """Items whose context is preceded by those of others: some 600 tokens each."""
    texts = [item["ctx"] for item in items]
    long = []
    for i, item in enumerate(items[:n]):
        others = [texts[(i + j) % len(texts)] for j in range(1, 6)]
        long.append(item | {"ctx_a": " ".join([*others, item["ctx_a"]])})
    return long


def said(equal: bool) -> str:
    return "equal" if equal else "DIFFER"


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    enc, model = get_tokenizer("gpt2"), GPT(GPTConfig())
    with tempfile.TemporaryDirectory() as dir:
        save_tokenizer(enc, dir)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=f"{dir}/tokenizer.json", eos_token="<|endoftext|>"
        )
    hf, items = model.to_hf(), load_hellaswag("embedded")

    def ours(items):
        return score(model, enc, items, style="lm-eval").predictions["acc"]

    for name, some in (
        ("embedded", items),
        ("bajki", load_hellaswag("bajki")[:8]),
        ("long contexts", long_contexts(items, 6)),
    ):
        ratio = saved(enc, some)
        equal = (ours(some) == harness(hf, tokenizer, some)).all()
        note = f"sharing saves {ratio:.2f}×; predictions {said(equal)}"
        goal = 1.8 if name == "embedded" else 1.15 * ratio
        yield Case(
            f"score {len(some)} items, {name}",
            "lm-eval HFLM, batch 16",
            partial(ours, some),
            partial(harness, hf, tokenizer, some),
            len(some),
            "items/s",
            goal,
            note,
        )
    equal = (ours(items) == four_rows(model, enc, items)).all()
    note = f"predictions {said(equal)}"
    yield Case(
        f"score {len(items)} items, embedded",
        "an item a batch, four rows",
        partial(ours, items),
        partial(four_rows, model, enc, items),
        len(items),
        "items/s",
        2.0,
        note,
    )
