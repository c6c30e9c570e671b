import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import python
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


@pytest.fixture(scope="module")
def enc():
    return train_bpe((d["text"] for d in load_corpus("embedded")), 600)


@pytest.fixture(scope="module")
def model(enc):
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=96, vocab_size=enc.n_vocab, n_layer=2, n_head=2, n_embd=32))
    with torch.no_grad():
        for p in model.parameters():  # far enough from its start that endings differ clearly
            p.add_(0.2 * torch.randn_like(p))
    return model


def test_items_have_hellaswags_fields():
    assert len(ITEMS) >= 40
    for i, item in enumerate(ITEMS):
        assert item["ctx"] == (item["ctx_a"] + " " + item["ctx_b"]).strip() and len(set(item["endings"])) == 4 and item["ind"] == i
    labels = [int(i["label"]) for i in ITEMS]
    assert max(labels.count(k) for k in range(4)) <= len(ITEMS) * 0.3
    for pick in (np.argmax, np.argmin):  # the longest or the shortest ending is not the answer
        hits = np.mean([pick([len(e) for e in i["endings"]]) == int(i["label"]) for i in ITEMS])
        assert hits <= 0.32


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
    assert any(len(enc.encode_ordinary(i["ctx"] + i["endings"][0])) > 97 for i in ITEMS)  # some contexts lose their beginning
    labels = np.array([int(i["label"]) for i in ITEMS])
    sizes = {
        "acc": np.ones((len(ITEMS), 4)),
        "acc_norm": [[len(e) for e in i["endings"]] for i in ITEMS],
        "acc_bytes": [[len(e.encode()) for e in i["endings"]] for i in ITEMS],
        "acc_token": [[len(enc.encode_ordinary(" " + e)) for e in i["endings"]] for i in ITEMS],
    }
    for metric, size in sizes.items():
        chosen = (naive / np.array(size)).argmax(1)
        assert (found.predictions[metric] == chosen).all()
        assert getattr(found, metric) == pytest.approx((chosen == labels).mean())
        lo, hi = found.intervals[metric]
        assert 0 <= lo < getattr(found, metric) < hi <= 1 and found.n == len(ITEMS)


def harness(model, enc, items, dir):
    """(log-likelihoods (n, 4), lengths of the endings in letters, in bytes) by lm-evaluation-harness' own model, on our export."""
    save_tokenizer(enc, dir)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(dir / "tokenizer.json"), eos_token="<|endoftext|>")
    lm = HFLM(pretrained=model.to_hf(), tokenizer=tokenizer, batch_size=8, max_length=model.cfg.block_size)
    docs = process_docs(Dataset.from_list(items))
    requests = [Instance("loglikelihood", d, (d["query"], " " + c), i) for i, d in enumerate(docs) for c in d["choices"]]
    theirs = np.array([ll for ll, _ in lm.loglikelihood(requests, disable_tqdm=True)]).reshape(-1, 4)
    return theirs, *(np.array([[size(c) for c in d["choices"]] for d in docs]) for size in (len, lambda c: len(c.encode())))


def equals_the_harness(model, enc, items, dir):
    theirs, letters, n_bytes = harness(model, enc, items, dir)
    found = score(model, enc, items, style="lm-eval")
    np.testing.assert_allclose([row["loglik"] for row in found.table], theirs, atol=1e-4)
    for metric, size in (("acc", 1), ("acc_norm", letters), ("acc_bytes", n_bytes)):
        assert (found.predictions[metric] == (theirs / size).argmax(1)).all()


def test_lm_eval_style_equals_the_harness(model, enc, tmp_path):
    """Log-likelihoods of every ending within 1e-4 and the same predictions as lm-evaluation-harness' own model on our export."""
    equals_the_harness(model, enc, ITEMS, tmp_path)


@pytest.mark.parametrize("seed, shape", [(1, dict(block_size=256, n_layer=1, n_head=1)), (2, dict(block_size=64, n_layer=3, n_head=4, act="relu2")), (3, dict(block_size=128, n_layer=2, n_head=2, bias=False))])
def test_lm_eval_style_equals_the_harness_for_other_models(enc, tmp_path, seed, shape):
    """Whole contexts, contexts nearly all cut away (block_size 64; the harness refuses endings longer than that), other activations."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=enc.n_vocab, n_embd=32, **shape))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.15 * torch.randn_like(p))
    equals_the_harness(model, enc, ITEMS, tmp_path)
    equals_the_harness(model, enc, load_hellaswag("bajki")[:20], tmp_path)


def test_lm_eval_style_equals_the_harness_at_full_size(gpt2, tmp_path):
    torch.manual_seed(0)
    equals_the_harness(GPT(GPTConfig()), gpt2, ITEMS[:12], tmp_path)


def wikihow(item):
    """An item with everything that the harness cleans."""
    return item | {"ctx_a": "[header] Jak upiec chleb [title] Krok  pierwszy: ", "ctx_b": "NAJPIERW  mąka", "endings": [f" [step] {e}  i  już " for e in item["endings"]]}


def test_texts_are_cleaned_as_the_harness_does(model, enc, tmp_path):
    equals_the_harness(model, enc, [wikihow(ITEMS[0]), ITEMS[1] | {"ctx_b": ""}], tmp_path)


@given(st.data())
@settings(max_examples=30)
def test_endings_that_share_a_context_are_scored_as_each_alone(data):
    """Any four sequences: with equal or different contexts, equal endings, one token, longer than the model can see."""
    pos = data.draw(st.sampled_from(["learned", "rope"]))
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=8, vocab_size=5, n_layer=2, n_head=2, n_embd=16, pos=pos))
    ids = st.lists(st.integers(0, 4), min_size=1, max_size=12)
    items = []
    for _ in range(data.draw(st.integers(1, 4))):
        context = data.draw(ids)
        items.append([(data.draw(st.sampled_from([context, data.draw(ids)])), data.draw(ids)) for _ in range(4)])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        slow = torch.zeros(len(items), 4, dtype=torch.float64)
        for i, four in enumerate(items):
            for k, (a, b) in enumerate(four):
                whole = (a + b)[-9:]
                logp = model(torch.tensor([whole[:-1]]))[0][0].double().log_softmax(-1)
                slow[i, k] = sum(logp[t - 1, whole[t]] for t in range(max(1, len(whole) - len(b)), len(whole)))
    batch_tokens = data.draw(st.sampled_from([1, 30, 1000]))
    torch.testing.assert_close(_logliks(model, items, batch_tokens), slow, atol=1e-4, rtol=0)


def test_memory_is_bounded_and_nothing_is_computed_in_vain(model, enc, monkeypatch):
    """No batch beyond its size, no logits beyond theirs or where nothing is scored, no context read twice."""
    ids, logits, naive = [], [], [one_at_a_time(model, enc, item) for item in ITEMS]
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda x, **kw: (ids.append(x.shape), hidden(x, **kw))[1])
    monkeypatch.setattr(model, "logits", lambda h: (logits.append(len(h)), GPT.logits(model, h))[1])
    monkeypatch.setattr("babygpt.hellaswag._LOGITS", 50 * enc.n_vocab)
    found = score(model, enc, ITEMS, batch_tokens=600)
    np.testing.assert_allclose([row["loglik"] for row in found.table], naive, atol=1e-4)
    assert all(n * width <= 600 or n == 1 for n, width in ids) and max(w for _, w in ids) <= 4 * 96
    assert max(logits) <= 50 and sum(logits) <= sum(sum(row["n_tokens"]) for row in found.table)
    short = [item for item in ITEMS if max(len(enc.encode_ordinary(item["ctx"] + " " + e)) for e in item["endings"]) <= 96]
    ids.clear()
    score(model, enc, short, batch_tokens=1)
    once = sum(len(enc.encode_ordinary(i["ctx"])) + sum(len(enc.encode_ordinary(" " + e)) for e in i["endings"]) for i in short)
    assert len(short) >= 2 and sum(n * width for n, width in ids) <= once


def test_a_model_that_knows_the_answers_gets_them(enc):
    """A bigram of gold endings, trained to certainty: the score must rise to 1, so it does measure what it says."""
    torch.manual_seed(0)
    items = ITEMS[:6]
    model = GPT(GPTConfig(block_size=128, vocab_size=enc.n_vocab, n_layer=2, n_head=2, n_embd=64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [enc.encode_ordinary(i["ctx"]) + enc.encode_ordinary(" " + i["endings"][int(i["label"])]) for i in items]
    width = max(map(len, rows))
    x = torch.tensor([r + [0] * (width - len(r)) for r in rows])[:, :128]
    y = torch.tensor([r + [-100] * (width - len(r)) for r in rows])[:, 1:129]
    for _ in range(150):
        optimizer.zero_grad()
        model(x[:, : y.shape[1]], y)[1].backward()
        optimizer.step()
    found = score(model, enc, items)
    assert found.acc == found.acc_norm == found.acc_bytes == found.acc_token == 1


def _share(rank, world, path, items):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=world)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    enc = get_tokenizer("gpt2:500")
    model = GPT(GPTConfig(block_size=64, vocab_size=500, n_layer=1, n_head=1, n_embd=8))
    found = score(model, enc, items)
    with open(f"{path}/{rank}.json", "w") as f:
        json.dump([[row["loglik"] for row in found.table], found.n], f)
    dist.destroy_process_group()


def test_every_item_once_for_any_number_of_processes(tmp_path):
    """100 items on 3 ranks: neither divides the other, and every rank gets the whole result."""
    items = (ITEMS * 3)[:100]
    torch.manual_seed(0)
    alone = score(GPT(GPTConfig(block_size=64, vocab_size=500, n_layer=1, n_head=1, n_embd=8)), get_tokenizer("gpt2:500"), items)
    torch.multiprocessing.spawn(_share, args=(3, str(tmp_path), items), nprocs=3)
    for rank in range(3):
        logliks, n = json.loads((tmp_path / f"{rank}.json").read_text())
        assert n == 100
        np.testing.assert_allclose(logliks, [row["loglik"] for row in alone.table], atol=1e-5)


def test_no_graph_is_built(model, enc):
    seen = []
    hook = model.ln_f.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
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
    lines = [json.dumps(x, ensure_ascii=False) for x in (ITEMS[0], ITEMS[1], change(ITEMS[2]))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
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
    (tmp_path / "i.jsonl").write_text(json.dumps(item, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_hellaswag(tmp_path / "i.jsonl") == [item]


def test_hellaswagx_comes_through_the_real_client(hub):
    code = "from babygpt.hellaswag import load_hellaswag; items = load_hellaswag('hellaswagx'); print(len(items), items[0]['ind'])"
    done = python("-c", code, env=hub.env)
    assert done.returncode == 0 and done.stdout.split()[-2:] == ["12", "0"], done.stdout
    done = python("-c", code.replace("'hellaswagx'", "'hellaswagx', lang='DE'"), env=hub.env)
    assert "ConnectionError: cannot fetch openGPT-X/hellaswagx (DE)" in done.stdout


def test_an_unreachable_hub_is_named():
    code = "from babygpt.hellaswag import load_hellaswag; load_hellaswag('hellaswagx')"
    done = python("-c", code, env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"})
    assert done.returncode != 0 and "ConnectionError: cannot fetch openGPT-X/hellaswagx (PL) from http://127.0.0.1:9" in done.stdout
    assert "use the items 'embedded'" in done.stdout
