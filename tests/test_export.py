"""A run's folder `hf`, as others meet it: transformers, lm-evaluation-harness."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import babygpt.engine.export as be
import babygpt.engine.run as running
from babygpt.hellaswag import load_hellaswag, score
from babygpt.model import GPT
from babygpt.train import TrainConfig, launch, load_run, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that two processes trained and exported at once; its data is gone."""
    dir = tmp_path_factory.mktemp("export")
    cfg = TrainConfig(
        corpus="embedded",
        hellaswag="embedded",
        tokenizer="bpe:600",
        pos="learned",
        act="relu2",
        qk_norm=False,
        bias=False,
        n_layer=2,
        n_head=2,
        n_embd=32,
        block_size=128,
        n_lanes=4,
        rows=1,
        chunk_size=500,
        window=400,
        max_steps=12,
        warmup_steps=2,
        lr=1e-2,
        val_every=6,
        val_tokens=2_000,
        sample_every=0,
        checkpoint_every=6,
        modes="train,validate,export",
        nproc=2,
        run_dir=str(dir / "run"),
        data_dir=str(dir / "data"),
    )
    found = launch(cfg)
    shutil.rmtree(dir / "data")
    return cfg, found


def contents(folder):
    """{path: bytes} of the files in a folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_transformers_loads_it_and_agrees(trained):
    cfg, found = trained
    folder = Path(found["exported"])
    assert folder == Path(cfg.run_dir, "hf") and not (folder.parent / "hf.tmp").exists()
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours, enc = load_run(cfg.run_dir)
    texts = ["Zażółć gęślą jaźń.", "  dwa  odstępy\n\n", "🦌", ""]
    texts += [item["ctx"] for item in load_hellaswag("embedded")[:5]]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert ids == enc.encode_ordinary(text) and tokenizer.decode(ids) == text
    assert tokenizer("<|endoftext|>").input_ids == [enc.eot_token]
    assert enc.eot_token == tokenizer.eos_token_id == theirs.config.eos_token_id
    x = torch.randint(600, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, back = ours(x)[0], GPT.from_hf(folder)(x)[0]
        torch.testing.assert_close(theirs(x).logits, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(back, expected, atol=1e-4, rtol=0)


def test_the_card_holds_what_was_measured_and_its_example_runs(trained):
    cfg, found = trained
    card = Path(found["exported"], "README.md").read_text(encoding="utf-8")
    expected = score(*load_run(cfg.run_dir), load_hellaswag("embedded"), "lm-eval")
    for metric in ("acc", "acc_norm", "acc_bytes"):
        value = getattr(expected, metric)
        assert found[metric] == pytest.approx(value)
        low, high = expected.intervals[metric]
        result = f"{value:.4f} ({low:.4f} to {high:.4f})"
        assert f"| HellaSwag (embedded) | {metric} | {result} |" in card
    assert f"| held-out text | bits per byte | {found['val_bpb']:.4f} |" in card
    assert f"{found['n_params']:,} parameters" in card and "bpe:600" in card
    assert str(Path(cfg.run_dir).parent) not in card
    code = re.search(r"```python\n(.*?)```", card, re.S)[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=found["exported"],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and "Pewnego dnia" in done.stdout, done.stderr


def test_the_cards_command_gives_its_numbers(trained):
    """lm-evaluation-harness from the command line, without a line of ours."""
    _, found = trained
    card = Path(found["exported"], "README.md").read_text(encoding="utf-8")
    command = re.search(r"```bash\n(lm_eval .*?)\n```", card)[1].split()
    done = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        cwd=found["exported"],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = dict(re.findall(r"\|(acc\w*) *\|↑ *\|([0-9.]+)\|", done.stdout))
    assert theirs == {m: f"{found[m]:.4f}" for m in ("acc", "acc_norm", "acc_bytes")}


def test_alone_it_needs_nothing_but_the_runs_folder(trained, tmp_path, monkeypatch):
    cfg, found = trained
    shutil.copytree(cfg.run_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("hf"))
    monkeypatch.setattr(running, "prepare", lambda *a: 1 / 0)
    cfg = TrainConfig(
        run_dir=str(tmp_path / "copy"), hellaswag="embedded", modes="export"
    )
    again = train(cfg)
    assert again["acc"] == found["acc"]
    assert again["exported"] == str(tmp_path / "copy/hf")
    ours, theirs = contents(again["exported"]), contents(found["exported"])
    same = theirs.keys() - {Path("README.md")}
    assert all(ours[name] == theirs[name] for name in same) and len(same) >= 7


def test_one_that_fails_leaves_the_older_one_whole(trained, monkeypatch):
    cfg, found = trained
    before = contents(found["exported"])
    again = TrainConfig(run_dir=cfg.run_dir, hellaswag="embedded", modes="export")
    monkeypatch.setattr(be, "_write_task", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(again)
    assert contents(found["exported"]) == before
    monkeypatch.undo()
    train(again)  # what was left behind is no hindrance
    assert not Path(cfg.run_dir, "hf.tmp").exists()


@pytest.mark.parametrize("switch", [{"pos": "rope"}, {"qk_norm": True}])
def test_what_cannot_be_exported_is_told_before_it_is_trained(
    trained, tmp_path, switch
):
    cfg = replace(trained[0], run_dir=str(tmp_path / "run"), nproc=1, **switch)
    message = "train with pos='learned' and qk_norm=False to export"
    with pytest.raises(ValueError, match=message):
        train(cfg)
    assert not (tmp_path / "run").exists()


def test_the_tasks_items_are_the_runs(trained):
    path = Path(trained[1]["exported"], "lm_eval/items.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == load_hellaswag("embedded")
