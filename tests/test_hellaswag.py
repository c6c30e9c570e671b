import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import NO_HUB, python, write_jsonl
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.hellaswag.utils import process_docs
from transformers import PreTrainedTokenizerFast

from babygpt.corpus import load_corpus
from babygpt.hellaswag import _logliks, load_hellaswag, score
from babygpt.model import GPT, GPTConfig
from babygpt.tokenizer import get_tokenizer, save_tokenizer, train_bpe

ITEMS = load_hellaswag("embedded")


@torch.no_grad()
def disturb(model, size):
    """Add noise to every parameter."""
    for p in model.parameters():
        p.add_(size * torch.randn_like(p))


def lengths(items, size=len):
    """(n, 4): the size of every ending."""
    return np.array([[size(ending) for ending in item["endings"]] for item in items])


@pytest.fixture(scope="module")
def enc():
    return train_bpe((d["text"] for d in load_corpus("embedded")), 600)


@pytest.fixture(scope="module")
def model(enc):
    torch.manual_seed(0)
    shape = dict(block_size=96, n_layer=2, n_head=2, n_embd=32)
    model = GPT(GPTConfig(vocab_size=enc.n_vocab, **shape))
    # far enough from its start that endings differ clearly
    disturb(model, 0.2)
    return model


def test_items_have_hellaswags_fields():
    assert len(ITEMS) >= 40
    for i, item in enumerate(ITEMS):
        assert item["ctx"] == (item["ctx_a"] + " " + item["ctx_b"]).strip()
        assert len(set(item["endings"])) == 4 and item["ind"] == i
    labels = [int(i["label"]) for i in ITEMS]
    assert max(labels.count(k) for k in range(4)) <= len(ITEMS) * 0.3
    # the longest or the shortest ending is not the answer
    for picked in (lengths(ITEMS).argmax(1), lengths(ITEMS).argmin(1)):
        assert np.mean(picked == labels) <= 0.32


@torch.no_grad()
def one_at_a_time(model, enc, item):
    out = []
    for ending in item["endings"]:
        a, b = enc.encode_ordinary(item["ctx"]), enc.encode_ordinary(" " + ending)
        ids = torch.tensor((a + b)[-(model.cfg.block_size + 1) :])
        logp = model(ids[None, :-1])[0][0].double().log_softmax(-1)
        scored = min(len(b), len(ids) - 1)
        out.append(logp[torch.arange(len(ids) - 1), ids[1:]][-scored:].sum().item())
    return out


@pytest.mark.parametrize("batch_tokens", [1, 500, 100_000])
def test_seed_style_equals_one_ending_at_a_time(model, enc, batch_tokens):
    found = score(model, enc, ITEMS, batch_tokens=batch_tokens)
    naive = np.array([one_at_a_time(model, enc, item) for item in ITEMS])
    np.testing.assert_allclose([row["loglik"] for row in found.table], naive, atol=1e-4)
    # some contexts lose their beginning
    texts = [item["ctx"] + item["endings"][0] for item in ITEMS]
    assert any(len(enc.encode_ordinary(text)) > 97 for text in texts)
    labels = np.array([int(i["label"]) for i in ITEMS])
    sizes = {
        "acc": 1,
        "acc_norm": lengths(ITEMS),
        "acc_bytes": lengths(ITEMS, lambda e: len(e.encode())),
        "acc_token": lengths(ITEMS, lambda e: len(enc.encode_ordinary(" " + e))),
    }
    for metric, size in sizes.items():
        chosen = (naive / size).argmax(1)
        assert (found.predictions[metric] == chosen).all()
        assert getattr(found, metric) == pytest.approx((chosen == labels).mean())
        lo, hi = found.intervals[metric]
        assert 0 <= lo < getattr(found, metric) < hi <= 1 and found.n == len(ITEMS)


def harness(model, enc, items, dir):
    """What lm-evaluation-harness' own model says on our export.

    (log-likelihoods (n, 4), lengths of the endings in letters, in bytes)
    """
    save_tokenizer(enc, dir)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(dir / "tokenizer.json"), eos_token="<|endoftext|>"
    )
    lm = HFLM(
        pretrained=model.to_hf(),
        tokenizer=tokenizer,
        batch_size=8,
        max_length=model.cfg.block_size,
    )
    docs = process_docs(Dataset.from_list(items))
    requests, letters, n_bytes = [], [], []
    for i, doc in enumerate(docs):
        for choice in doc["choices"]:
            asked = doc["query"], " " + choice
            requests.append(Instance("loglikelihood", doc, asked, i))
            letters.append(len(choice))
            n_bytes.append(len(choice.encode()))
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    theirs = [loglik for loglik, _ in answers]
    return np.array([theirs, letters, n_bytes]).reshape(3, -1, 4)


def equals_the_harness(model, enc, items, dir):
    theirs, letters, n_bytes = harness(model, enc, items, dir)
    found = score(model, enc, items, style="lm-eval")
    np.testing.assert_allclose(
        [row["loglik"] for row in found.table], theirs, atol=1e-4
    )
    for metric, size in (("acc", 1), ("acc_norm", letters), ("acc_bytes", n_bytes)):
        assert (found.predictions[metric] == (theirs / size).argmax(1)).all()


def test_lm_eval_style_equals_the_harness(model, enc, tmp_path):
    """Log-likelihoods of every ending within 1e-4, and the same predictions, as
    lm-evaluation-harness' own model on our export."""
    equals_the_harness(model, enc, ITEMS, tmp_path)


@pytest.mark.parametrize(
    "seed, shape",
    [
        (1, dict(block_size=256, n_layer=1, n_head=1)),
        (2, dict(block_size=64, n_layer=3, n_head=4, act="relu2")),
        (3, dict(block_size=128, n_layer=2, n_head=2, bias=False)),
    ],
)
def test_lm_eval_style_equals_the_harness_for_other_models(enc, tmp_path, seed, shape):
    """Whole contexts, contexts nearly all cut away, other activations.

    block_size is at least 64: the harness refuses endings longer than that.
    """
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=enc.n_vocab, n_embd=32, **shape))
    disturb(model, 0.15)
    equals_the_harness(model, enc, ITEMS, tmp_path)
    equals_the_harness(model, enc, load_hellaswag("bajki")[:20], tmp_path)


def test_lm_eval_style_equals_the_harness_at_full_size(gpt2, tmp_path):
    torch.manual_seed(0)
    equals_the_harness(GPT(GPTConfig()), gpt2, ITEMS[:12], tmp_path)


def wikihow(item):
    """An item with everything that the harness cleans."""
    return item | {
        "ctx_a": "[header] Jak upiec chleb [title] Krok  pierwszy: ",
        "ctx_b": "NAJPIERW  mąka",
        "endings": [f" [step] {e}  i  już " for e in item["endings"]],
    }


def test_texts_are_cleaned_as_the_harness_does(model, enc, tmp_path):
    items = [wikihow(ITEMS[0]), ITEMS[1] | {"ctx_b": ""}]
    equals_the_harness(model, enc, items, tmp_path)


@torch.no_grad()
def slow_loglik(model, context, ending):
    """One token at a time, in a window of block_size tokens and one more."""
    ids = (context + ending)[-(model.cfg.block_size + 1) :]
    logp = model(torch.tensor([ids[:-1]]))[0][0].double().log_softmax(-1)
    first = max(1, len(ids) - len(ending))
    return sum(logp[t - 1, ids[t]] for t in range(first, len(ids)))


@given(st.data())
@settings(max_examples=30)
def test_endings_that_share_a_context_are_scored_as_each_alone(data):
    """Any four sequences: with equal or different contexts, equal endings, one token,
    longer than the model can see."""
    pos = data.draw(st.sampled_from(["learned", "rope"]))
    torch.manual_seed(0)
    shape = dict(block_size=8, vocab_size=5, n_layer=2, n_head=2, n_embd=16)
    model = GPT(GPTConfig(pos=pos, **shape))
    ids = st.lists(st.integers(0, 4), min_size=1, max_size=12)
    items = []
    for _ in range(data.draw(st.integers(1, 4))):
        shared = data.draw(ids)
        four = []
        for _ in range(4):
            context = data.draw(st.sampled_from([shared, data.draw(ids)]))
            four.append((context, data.draw(ids)))
        items.append(four)
    disturb(model, 0.3)
    slow = torch.zeros(len(items), 4, dtype=torch.float64)
    for i, four in enumerate(items):
        for k, (context, ending) in enumerate(four):
            slow[i, k] = slow_loglik(model, context, ending)
    batch_tokens = data.draw(st.sampled_from([1, 30, 1000]))
    found = _logliks(model, items, batch_tokens)
    torch.testing.assert_close(found, slow, atol=1e-4, rtol=0)


def test_memory_is_bounded_and_nothing_is_computed_in_vain(model, enc, monkeypatch):
    """No batch beyond its size, no logits beyond theirs or where nothing is scored,
    no context read twice."""
    naive = [one_at_a_time(model, enc, item) for item in ITEMS]
    ids, logits = [], []

    def hidden(x, **kw):
        ids.append(x.shape)
        return GPT.hidden(model, x, **kw)

    def logits_of(h):
        logits.append(len(h))
        return GPT.logits(model, h)

    monkeypatch.setattr(model, "hidden", hidden)
    monkeypatch.setattr(model, "logits", logits_of)
    monkeypatch.setattr("babygpt.hellaswag._LOGITS", 50 * enc.n_vocab)
    found = score(model, enc, ITEMS, batch_tokens=600)
    np.testing.assert_allclose([row["loglik"] for row in found.table], naive, atol=1e-4)
    assert all(n * width <= 600 or n == 1 for n, width in ids)
    assert max(width for _, width in ids) <= 4 * 96
    scored = sum(sum(row["n_tokens"]) for row in found.table)
    assert max(logits) <= 50 and sum(logits) <= scored

    def n_tokens(text):
        return len(enc.encode_ordinary(text))

    short, once = [], 0
    for item in ITEMS:
        context, endings = item["ctx"], [" " + e for e in item["endings"]]
        if max(n_tokens(context + ending) for ending in endings) <= 96:
            short.append(item)
            once += n_tokens(context) + sum(map(n_tokens, endings))
    ids.clear()
    score(model, enc, short, batch_tokens=1)
    assert len(short) >= 2 and sum(n * width for n, width in ids) <= once


def test_a_model_that_knows_the_answers_gets_them(enc):
    """A bigram of gold endings, trained to certainty: the score must rise to 1, so it
    does measure what it says."""
    torch.manual_seed(0)
    items = ITEMS[:6]
    shape = dict(block_size=128, n_layer=2, n_head=2, n_embd=64)
    model = GPT(GPTConfig(vocab_size=enc.n_vocab, **shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = []
    for item in items:
        gold = " " + item["endings"][int(item["label"])]
        rows.append(enc.encode_ordinary(item["ctx"]) + enc.encode_ordinary(gold))
    width = max(map(len, rows))
    x = torch.tensor([r + [0] * (width - len(r)) for r in rows])[:, :128]
    y = torch.tensor([r + [-100] * (width - len(r)) for r in rows])[:, 1:129]
    for _ in range(150):
        optimizer.zero_grad()
        model(x[:, : y.shape[1]], y)[1].backward()
        optimizer.step()
    found = score(model, enc, items)
    assert found.acc == found.acc_norm == found.acc_bytes == found.acc_token == 1


def _tiny_model():
    torch.manual_seed(0)
    shape = dict(block_size=64, n_layer=1, n_head=1, n_embd=8)
    return GPT(GPTConfig(vocab_size=500, **shape)), get_tokenizer("gpt2:500")


def _share(rank, world, path, items):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group(
        "gloo", init_method=f"file://{path}/store", rank=rank, world_size=world
    )
    torch.set_num_threads(1)
    found = score(*_tiny_model(), items)
    with open(f"{path}/{rank}.json", "w") as f:
        json.dump([[row["loglik"] for row in found.table], found.n], f)
    dist.destroy_process_group()


def test_every_item_once_for_any_number_of_processes(tmp_path):
    """100 items on 3 ranks: neither divides the other, and every rank gets the whole
    result."""
    items = (ITEMS * 3)[:100]
    alone = score(*_tiny_model(), items)
    torch.multiprocessing.spawn(_share, args=(3, str(tmp_path), items), nprocs=3)
    for rank in range(3):
        logliks, n = json.loads((tmp_path / f"{rank}.json").read_text())
        assert n == 100
        expected = [row["loglik"] for row in alone.table]
        np.testing.assert_allclose(logliks, expected, atol=1e-5)


def test_no_graph_is_built(model, enc):
    seen = []
    hook = model.ln_f.register_forward_hook(
        lambda module, args, out: seen.append(out.requires_grad)
    )
    score(model, enc, ITEMS[:3])
    hook.remove()
    assert seen and not any(seen)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda i: i | {"endings": i["endings"][:3]}, "three endings"),
        (lambda i: i | {"label": "4"}, "a label of 4"),
        (lambda i: i | {"label": ""}, "no label"),
        (lambda i: {k: v for k, v in i.items() if k != "ctx"}, "no context"),
        (lambda i: [i], "a list"),
        (lambda i: i | {"endings": ["a", "b", "", "c"]}, "an empty ending"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, change, problem):
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [ITEMS[0], ITEMS[1], change(ITEMS[2])])
    with pytest.raises(ValueError, match=r"items.jsonl, line 3: not a HellaSwag item"):
        load_hellaswag(str(path))


def test_other_bad_input(tmp_path, model, enc):
    with pytest.raises(FileNotFoundError, match="no HellaSwag items 'nothing'"):
        load_hellaswag("nothing")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no items"):
        load_hellaswag(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes("ąę".encode("iso-8859-2"))
    with pytest.raises(ValueError, match="not UTF-8"):
        load_hellaswag(tmp_path / "latin.jsonl")
    with pytest.raises(ValueError, match="not the tokenizer it was trained with"):
        score(model, get_tokenizer("gpt2"), ITEMS)
    with pytest.raises(ValueError, match="expected 'seed' or 'lm-eval'"):
        score(model, enc, ITEMS, style="other")
    with pytest.raises(ValueError, match="no HellaSwag items to score"):
        score(model, enc, [])


def test_line_separators_inside_an_item_do_not_split_it(tmp_path):
    item = ITEMS[0] | {"ctx": "a\u2028b\x85c"}
    write_jsonl(tmp_path / "i.jsonl", [item])
    assert load_hellaswag(tmp_path / "i.jsonl") == [item]


LOAD = """
import sys
from babygpt.hellaswag import load_hellaswag
items = load_hellaswag("hellaswagx", lang=sys.argv[1])
print(len(items), items[0]["ind"])
"""


def test_hellaswagx_comes_through_the_real_client(hub):
    done = python("-c", LOAD, "PL", env=hub.env)
    assert done.returncode == 0 and done.stdout.split()[-2:] == ["12", "0"], done.stdout
    done = python("-c", LOAD, "DE", env=hub.env)
    assert "ConnectionError: cannot fetch openGPT-X/hellaswagx (DE)" in done.stdout


def test_an_unreachable_hub_is_named():
    done = python("-c", LOAD, "PL", env=NO_HUB)
    assert done.returncode != 0
    source = "openGPT-X/hellaswagx (PL) from http://127.0.0.1:9"
    assert f"ConnectionError: cannot fetch {source}" in done.stdout
    assert "use the items 'embedded'" in done.stdout
