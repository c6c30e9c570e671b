"""Experiments: the variants are what they say, the method fair, no run made twice."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import ROOT, wait_for
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import babygpt.modern as bm
import babygpt.train as bt
from babygpt.chunk import find_chunks, write_tokens
from babygpt.corpus import load_corpus
from babygpt.engine import experiments
from babygpt.model import GPT, GPTConfig
from babygpt.modern import Arm, document_mask, flops_per_step, results
from babygpt.tokenizer import get_tokenizer

SHAPE = GPTConfig(block_size=32, vocab_size=50, n_layer=2, n_head=2, n_embd=16)


# --- variants


@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4
    ).filter(lambda rows: len({len(r) for r in rows}) == 1)
)
def test_the_mask_of_documents_against_loops(rows):
    pos, mask = document_mask(torch.tensor(rows), eot=3)
    for b, row in enumerate(rows):
        for i in range(len(row)):
            begins = max([j + 1 for j in range(i) if row[j] == 3], default=0)
            assert pos[b, i] == i - begins
            assert mask[b, i].tolist() == [begins <= j <= i for j in range(len(row))]


@pytest.mark.parametrize("pos", ["learned", "rope"])
def test_confined_a_document_in_a_row_is_the_document_alone(pos):
    torch.manual_seed(0)
    model = bm.Confined(replace(SHAPE, pos=pos))
    documents = [torch.randint(49, (n,)) for n in (5, 9, 3)]
    row = torch.cat([torch.cat((d, torch.tensor([49]))) for d in documents])
    whole = model(row[None])[0][0]
    alone = torch.cat(
        [model(torch.cat((d, torch.tensor([49])))[None])[0][0] for d in documents]
    )
    torch.testing.assert_close(whole, alone)


def test_zero_projections_make_every_block_the_identity():
    model = bm.ZeroInit(SHAPE)
    x = torch.randint(50, (2, 7))
    torch.testing.assert_close(
        model.hidden(x), model.ln_f(model.wte(x) + model.wpe.weight[:7])
    )
    model(x, x)[1].backward()
    assert all(
        block.mlp.c_proj.weight.grad.abs().max() > 0 for block in model.h
    )  # and it can learn


def test_an_untied_output_layer_begins_even_and_learns_by_itself():
    model = bm.Untied(SHAPE)
    x = torch.randint(50, (2, 7))
    logits, loss = model(x, x)
    assert logits.abs().max() == 0 and loss.item() == pytest.approx(math.log(50))
    loss.backward()
    assert (
        model.head.grad.abs().max() > 0
        and model.head.data_ptr() != model.wte.weight.data_ptr()
    )


def test_capped_logits_stay_within_their_bound():
    model = bm.SoftCap(SHAPE)
    with torch.no_grad():
        model.wte.weight.mul_(1000)
    assert 14 < model(torch.randint(50, (2, 7)))[0].abs().max() <= 15


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(
        load_corpus("bajki", limit_docs=300),
        get_tokenizer("gpt2:512"),
        tmp_path_factory.mktemp("tokens"),
        "train",
    )


def test_rows_begin_with_documents(tokens):
    lanes = bm.DocumentRows(
        tokens,
        find_chunks(tokens.tokens, 5_000, tokens.eot, 1_000),
        4,
        rows=2,
        block_size=256,
        seed=7,
    )
    begins = {0, *(tokens.ends.tolist())}
    ids, seen = tokens.tokens, []
    for step in range(lanes.steps_per_epoch):
        x, y = lanes.batch(step)
        assert x.shape == y.shape == (8, 256) and torch.equal(x[:, 1:], y[:, :-1])
        for row, target in zip(x, y):
            where = [
                b
                for b in begins
                if b + 257 <= len(ids)
                and np.array_equal(ids[b : b + 256], row.numpy())
                and ids[b + 256] == target[-1]
            ]
            assert len(where) == 1
            seen += where
        for lane in range(4):
            assert torch.equal(lanes.batch(step, [lane])[0], x[2 * lane : 2 * lane + 2])
    assert len(set(seen)) == len(seen)
    assert not torch.equal(lanes.batch(0)[0], lanes.batch(lanes.steps_per_epoch)[0])


# --- the method


ARM = bm._with("GPT-2")


def runs(bpb):
    """Results as they would be in the file: {(lr, seed): bits per byte}."""
    return [
        ARM.identity | {"lr": lr, "seed": seed, "val_bpb": b}
        for (lr, seed), b in bpb.items()
    ]


@pytest.mark.parametrize(
    "done, comes",
    [
        ({}, [(1, 1), (2, 1), (4, 1)]),
        ({(1, 1): 0.5}, [(2, 1), (4, 1)]),
        ({(1, 1): 0.9, (2, 1): 0.8, (4, 1): 0.85}, [(2, 2), (2, 3)]),
        ({(1, 1): 0.9, (2, 1): 0.8, (4, 1): 0.85, (2, 3): 0.8}, [(2, 2)]),
        ({(1, 1): 0.9, (2, 1): 0.8, (4, 1): 0.85, (2, 3): 0.8, (2, 2): 0.7}, []),
        (
            {(1, 1): 0.9, (2, 1): 0.8, (4, 1): 0.7},
            [(8, 1)],
        ),  # the best lies at the edge
        ({(1, 1): 0.6, (2, 1): 0.8, (4, 1): 0.9}, [(0.5, 1)]),
        ({(1, 1): 0.9, (2, 1): 0.8, (4, 1): math.nan}, [(2, 2), (2, 3)]),
        ({(0.5, 1): 0.7, (1, 1): 0.6, (2, 1): 0.8, (4, 1): 0.9}, [(1, 2), (1, 3)]),
    ],
)
def test_what_comes_next(done, comes):
    others = [
        bm._with("RoPE", pos="rope").identity | {"lr": 2, "seed": 1, "val_bpb": 0.1}
    ]
    assert experiments._missing(ARM, runs(done) + others, (1, 2, 4), (1, 2, 3)) == comes


def test_muons_operations_are_counted():
    cfg = replace(
        bm.BASE, n_layer=2, n_head=2, n_embd=16, block_size=32, optimizer="muon"
    )
    model = GPT(cfg.model_config(50))
    optimizer = bt.make_optimizer(model, cfg)
    model(torch.randint(50, (1, 9)), torch.randint(50, (1, 9)))[1].backward()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert counter.get_total_flops() == flops_per_step(
        Arm("", cfg), 50
    ) - flops_per_step(Arm("", replace(cfg, optimizer="adamw")), 50)


SMALL = """
import sys
from babygpt.modern import _with, run_experiment
if __name__ == "__main__":
    small = dict(
        corpus="embedded", hellaswag="embedded", tokenizer="gpt2:512", n_layer=1,
        n_head=2, n_embd=16, block_size=32, n_lanes=4, rows=2, chunk_size=500,
        window=400,
    )
    arms = [
        _with("one", **small),
        _with("two", "soft cap", pos="rope", optimizer="muon", **small),
        _with("the first again", **small),
    ]
    how = dict(lrs=(1e-3, 2e-3), seeds=(1, 2), budget=2e8, workers=2)
    run_experiment(arms, sys.argv[1], **how)
"""


def test_killed_it_goes_on_and_no_run_is_done_twice(tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    file = tmp_path / "results.jsonl"
    start = lambda: subprocess.Popen(
        [sys.executable, "-W", "ignore", str(tmp_path / "small.py"), str(file)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    process = start()
    wait_for(lambda: len(results(file)) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with open(file, "a") as f:
        f.write('{"config": {"cut off')
    before = results(file)
    assert start().wait() == 0
    after = results(file)
    assert after[: len(before)] == before
    keys = [
        json.dumps([r["config"], r["changes"], r["lr"], r["seed"]], sort_keys=True)
        for r in after
    ]
    assert len(set(keys)) == len(keys) and {r["seed"] for r in after} == {1, 2}
    flops = [r["flops"] for r in after]
    assert max(flops) / min(flops) < 1.2 and {
        r["steps"] for r in after if not r["changes"]
    } != {r["steps"] for r in after if r["changes"]}


def test_fixed_rates_are_run_with_every_seed():
    done = runs({(2, 2): 0.8, (4, 3): 0.9, (1, 1): 0.1})
    found = experiments._missing(ARM, done, (2, 4), (2, 3), False)
    assert found == [(2, 3), (4, 2)]


def test_the_seed_that_chose_the_rate_is_not_among_the_results():
    done = {
        (1, 1): 0.9,
        (2, 1): 0.5,
        (4, 1): 0.7,
        (2, 3): 0.8,
        (2, 2): 0.7,
        (4, 2): 0.1,
    }
    found = bm.tuned(ARM, runs(done))
    assert [(r["lr"], r["seed"]) for r in found] == [(2, 2), (2, 3)]


@pytest.mark.parametrize("df", [1, 2, 3, 4, 10, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99, 1 - 0.05 / 9])
def test_students_t_against_scipy(df, confidence):
    expected = scipy.stats.t.ppf((1 + confidence) / 2, df)
    assert bm.student_t(confidence, df) == pytest.approx(expected, rel=1e-4)


def test_an_interval_is_wider_where_several_are_to_hold():
    values = [1.0, 2.0, 4.0]
    mean, half = bm.mean_interval(values, comparisons=9)
    error = scipy.stats.sem(values)
    assert mean == pytest.approx(np.mean(values))
    assert half == pytest.approx(scipy.stats.t.ppf(1 - 0.025 / 9, 2) * error, rel=1e-4)


def test_the_stored_results_are_whole_and_fair():
    runs = results(ROOT / "babygpt/data/modern.jsonl")
    for name, arms in bm.EXPERIMENTS.items():
        how = {"lrs": (2e-3, 4e-3, 8e-3), "seeds": experiments.SEEDS} | bm.SPECIAL.get(
            name, {}
        )
        for arm in arms:
            assert experiments._missing(arm, runs, **how) == [], arm.name
            mine = bm.tuned(arm, runs)
            assert {2, 3, 4} <= {r["seed"] for r in mine} <= {2, 3, 4, 5}
            for r in mine:
                assert r["flops"] == pytest.approx(
                    arm.share * experiments.BUDGET, rel=0.01
                )
    assert all("dirty" not in r["commit"] for r in runs)
    fields = ("config", "changes", "share", "lr", "seed")
    keys = {json.dumps([r[f] for f in fields], sort_keys=True) for r in runs}
    assert len(keys) == len(runs)
