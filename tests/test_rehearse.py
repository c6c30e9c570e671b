"""The rehearsal: the real topology, checks that can fail, one command."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT

import babygpt.rehearse as br
import babygpt.train as bt
from babygpt.train import PRESETS


@pytest.mark.parametrize("world", [8, 4, 1])
def test_it_keeps_the_topology(tmp_path, world):
    cfg = replace(PRESETS["a40x8"], nproc=world)
    small, share = br._in_small(cfg, tmp_path), cfg.n_lanes // world
    assert (small.nproc, small.n_lanes, small.dtype, small.hellaswag_style) == (world, 8, "bfloat16", cfg.hellaswag_style)
    assert share * small.rows // small.micro_batch == share * cfg.rows // cfg.micro_batch  # pieces of a batch
    assert {k for k, v in asdict(small).items() if v != asdict(cfg)[k]} <= {
        "corpus", "tokenizer", "hellaswag", "chunk_size", "window", "n_layer", "n_head", "n_embd", "block_size", "rows", "micro_batch", "max_steps", "warmup_steps", "lr", "min_lr", "val_every",
        "val_tokens", "hellaswag_every", "sample_every", "sample_tokens", "checkpoint_every", "keep_checkpoints", "device", "compile", "restarts", "modes", "run_dir", "data_dir",
    }  # fmt: skip


def test_it_exercises_what_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(bt, "_root", lambda: tmp_path)
    seen = br.rehearsal(replace(PRESETS["a40x8"], nproc=4))
    page = str(seen)
    assert all(seen.checks.values()) and len(seen.checks) == 10, page
    assert seen.summary["began_at"] == 4 and (tmp_path / "runs/rehearsal-a40x8/run/killed").exists()
    for piece in ("✓ 4 processes share 8 lanes, 4 pieces of a batch each", "? torch.compile", "? the Hub: fineweb2, hellaswagx", "4 × A40"):
        assert piece in page
    Path(seen.cfg.run_dir, "metrics.jsonl").write_text("")
    assert not all(br._checks(seen.cfg, seen.summary).values())  # a check can fail


def test_its_command_says_what_is_wrong_with_a_setting():
    done = subprocess.run([sys.executable, "-m", "babygpt.rehearse", "--preset", "a40x8", "--nproc", "3"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1 and "3 processes cannot share 8 lanes evenly" in done.stderr
