"""The rehearsal: the real topology, checks that can fail, one command."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT

import babygpt.rehearse as br
from babygpt.train import PRESETS

# The settings of a run in small that may differ from those of the real run.
MAY_CHANGE = """
    corpus tokenizer hellaswag chunk_size window n_layer n_head n_embd block_size rows
    micro_batch max_steps warmup_steps lr min_lr val_every val_tokens hellaswag_every
    sample_every sample_tokens checkpoint_every keep_checkpoints device compile restarts
    modes run_dir data_dir
""".split()


@pytest.mark.parametrize("world", [8, 4, 1])
def test_it_keeps_the_topology(tmp_path, world):
    cfg = replace(PRESETS["a40x8"], nproc=world)
    small, share = br._in_small(cfg, tmp_path), cfg.n_lanes // world
    assert small.nproc == world and small.n_lanes == 8
    assert small.dtype == "bfloat16" and small.hellaswag_style == cfg.hellaswag_style
    pieces = share * small.rows // small.micro_batch
    assert pieces == share * cfg.rows // cfg.micro_batch  # of a batch
    whole = asdict(cfg)
    changed = {name for name, value in asdict(small).items() if value != whole[name]}
    assert changed <= set(MAY_CHANGE)


def test_it_exercises_what_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(br, "root", lambda: tmp_path)
    seen = br.rehearsal(replace(PRESETS["a40x8"], nproc=4))
    page = str(seen)
    assert all(seen.checks.values()) and len(seen.checks) == 10, page
    assert seen.summary["began_at"] == 4
    assert (tmp_path / "runs/rehearsal-a40x8/run/killed").exists()
    for piece in (
        "✓ 4 processes share 8 lanes, 4 pieces of a batch each",
        "? torch.compile",
        "? the Hub: fineweb2, hellaswagx",
        "4 × A40",
    ):
        assert piece in page
    Path(seen.cfg.run_dir, "metrics.jsonl").write_text("")
    assert not all(br._checks(seen.cfg, seen.summary).values())  # a check can fail


def test_its_command_says_what_is_wrong_with_a_setting():
    done = subprocess.run(
        [sys.executable, "-m", "babygpt.rehearse", "--preset", "a40x8", "--nproc", "3"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert "3 processes cannot share 8 lanes evenly" in done.stderr
