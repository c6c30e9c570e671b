import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    TINY,
    checkpoint,
    command,
    launch_workers,
    wait_for,
    write_jsonl,
)
from safetensors.torch import load_file

import babygpt.train as bt
from babygpt.chunk import TokenFile, find_chunks
from babygpt.engine.config import data_dir_of, run_dir_of
from babygpt.engine.prepare import prepare, tokens_needed
from babygpt.engine.rundir import Meter
from babygpt.model import GPT
from babygpt.shuffle import Lanes
from babygpt.train import (
    PRESETS,
    TrainConfig,
    launch,
    load_run,
    lr_at,
    read_metrics,
    train,
)


def weights(run_dir, step):
    return load_file(checkpoint(run_dir, step) / "model.safetensors")


def distance(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in a)


# --- settings


def test_the_reference_run_is_a_preset():
    cfg = PRESETS["a40x8"]
    assert cfg.tokens_per_step == 524_288
    assert (cfg.max_steps, cfg.warmup_steps) == (10_000, 1_000)
    assert (cfg.lr, cfg.min_lr, cfg.weight_decay) == (6e-4, 6e-5, 0.1)
    assert (cfg.beta1, cfg.beta2, cfg.grad_clip) == (0.9, 0.95, 1.0)
    assert (cfg.corpus, cfg.tokenizer) == ("fineweb2", "gpt2")
    with torch.device("meta"):
        ours = GPT(cfg.model_config(50257))
        modern = GPT(PRESETS["modern"].model_config(50257))
    assert sum(p.numel() for p in ours.parameters()) == 124_439_808
    # positions turn
    assert sum(p.numel() for p in modern.parameters()) == 124_439_808 - 1024 * 768


def test_learning_rate():
    cfg = PRESETS["a40x8"]
    rates = [lr_at(s, cfg) for s in range(10_001)]
    assert rates[0] == 6e-7
    assert rates[999] == rates[1000] == max(rates) == 6e-4
    assert rates[-1] == pytest.approx(6e-5)
    assert rates[5500] == pytest.approx((6e-4 + 6e-5) / 2)
    assert all(a > b for a, b in zip(rates[1000:], rates[1001:]))
    assert lr_at(0, replace(cfg, warmup_steps=0)) == 6e-4


def test_learning_rate_that_stays_up():
    steps = dict(schedule="wsd", max_steps=100, warmup_steps=10)
    cfg = TrainConfig(lr=2.0, min_lr=0.0, **steps)
    rates = [lr_at(s, cfg) for s in range(102)]
    assert rates[:10] == pytest.approx([0.2 * s for s in range(1, 11)])
    assert set(rates[10:61]) == {2.0}
    assert rates[61:101] == pytest.approx([2 - 0.05 * s for s in range(1, 41)])
    assert rates[100] == rates[101] == 0
    assert lr_at(80, replace(cfg, min_lr=1.0)) == pytest.approx(1.5)


def test_decay_on_matrices_only():
    model = GPT(TrainConfig().model_config(300))
    groups = bt.make_optimizer(model, TrainConfig()).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for p in groups[0]["params"]}
    assert groups[0]["weight_decay"] == 0.1 and groups[1]["weight_decay"] == 0
    matrices = {n for n in names.values() if n.endswith(".weight") and "ln_" not in n}
    assert decayed == matrices
    assert len(groups[0]["params"]) + len(groups[1]["params"]) == len(names)


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest():
    cfg = replace(TrainConfig(), optimizer="muon")
    model = GPT(cfg.model_config(300))
    names = {id(p): n for n, p in model.named_parameters()}

    def named(optimizer):
        groups = optimizer.param_groups
        return [{names[id(p)] for p in group["params"]} for group in groups]

    muon, adamw = map(named, bt.make_optimizer(model, cfg).parts)
    matrices = set()
    for i in range(4):
        for m in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            matrices.add(f"h.{i}.{m}.weight")
    assert muon == [matrices]
    assert adamw[0] == {"wte.weight"}
    assert adamw[1] == set(names.values()) - muon[0] - adamw[0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"modes": "train,evalate"}, "unknown evalate"),
        ({"resume": "yes"}, "resume 'yes'"),
        ({"dtype": "float16"}, "dtype"),
        ({"optimizer": "sgd"}, "optimizer 'sgd': expected one of adamw, muon"),
        ({"schedule": "linear"}, "schedule 'linear'"),
        ({"rows": 0}, "rows 0"),
        ({"n_head": 5}, "n_head must divide"),
        ({"lr": "fast"}, "lr 'fast': expected float"),
        ({"max_steps": 1.5}, "max_steps 1.5: expected int"),
        ({"compile": 1}, "compile 1: expected bool"),
        ({"micro_batch": "half"}, "micro_batch 'half'"),
        ({"micro_batch": 0}, "micro_batch 0"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TrainConfig(), **change)


def test_every_field_is_a_flag(monkeypatch):
    seen = []
    monkeypatch.setattr(bt, "launch", lambda cfg: seen.append(cfg) or {})
    other = {
        bool: lambda v: not v,
        int: lambda v: v + v,
        int | str: lambda v: v + v,
        float: lambda v: v / 2,
    }
    choices = ("modes", "resume", "dtype", "optimizer", "schedule", "pos", "act")
    for f in fields(TrainConfig):
        if f.name in ("preset", "nproc", "n_head", "n_lanes", *choices):
            continue
        value = other.get(f.type, lambda v: "x")(f.default)
        bt.main([f"--{f.name}", str(value)])
        assert seen.pop() == replace(TrainConfig(), **{f.name: value})
    bt.main(["--micro_batch", "auto"])
    assert seen.pop().micro_batch == "auto"
    change = dict(max_steps=40, pos="rope", act="relu2", optimizer="muon")
    change |= dict(schedule="wsd", modes="train")
    words = ["--preset", "a40x8"]
    for name, value in change.items():
        words += [f"--{name}", str(value)]
    bt.main(words)
    assert seen.pop() == replace(PRESETS["a40x8"], **change)


# --- one batch, however it is divided


def one_big_batch(cfg, steps):
    """The same optimisation with nothing but torch: all rows in one forward pass, AdamW
    unfused, Muon for the blocks' matrices where it is asked for."""
    enc, tokens, _ = prepare(cfg)
    torch.manual_seed(cfg.seed)
    model = GPT(cfg.model_config(enc.n_vocab)).double()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizers = []
    if cfg.optimizer == "muon":
        of_blocks = matrices[-4 * cfg.n_layer :]
        matrices = matrices[: -4 * cfg.n_layer]
        how = dict(weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        optimizers.append(torch.optim.Muon(of_blocks, **how))
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": others, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1, betas=(0.9, 0.95), foreach=False)
    optimizers.append(adamw)
    needed = tokens.tokens[: tokens_needed(cfg, tokens)]
    chunks = find_chunks(needed, cfg.chunk_size, enc.eot_token, cfg.window)
    shape = dict(rows=cfg.rows, block_size=cfg.block_size, seed=cfg.seed)
    lanes = Lanes(tokens, chunks, cfg.n_lanes, **shape)
    for step in range(steps):
        x, y = lanes.batch(step)
        model.zero_grad()
        model(x, y)[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, cfg)
            optimizer.step()
    return model.state_dict()


@pytest.fixture(scope="module")
def reference(data):
    return one_big_batch(TrainConfig(**TINY, data_dir=data), 6)


VALIDATION = {}


@pytest.mark.parametrize(
    "world, micro_batch", [(1, 8), (1, 2), (1, 3), (2, 4), (2, 1), (4, 1)]
)
def test_processes_times_pieces_equal_one_big_batch(
    tiny, reference, world, micro_batch
):
    cfg = replace(tiny, dtype="float64", micro_batch=micro_batch, nproc=world)
    found = train(cfg) if world == 1 else launch(cfg)
    assert distance(weights(tiny.run_dir, 6), reference) < 1e-9
    looks = [m for m in read_metrics(tiny.run_dir) if "val_bpb" in m]
    values = [(m["step"], m["val_loss"], m["val_bpb"]) for m in looks]
    VALIDATION[world, micro_batch] = values
    # the same held-out tokens for all
    first = next(iter(VALIDATION.values()))
    np.testing.assert_allclose(values, first, rtol=1e-9)
    assert [v[0] for v in first] == [0, 3, 6] and found["finished"]


def test_muon_over_processes_equals_one_big_batch(tiny, reference):
    cfg = replace(
        tiny, optimizer="muon", schedule="wsd", dtype="float64", micro_batch=2, nproc=2
    )
    launch(cfg)
    found = weights(tiny.run_dir, 6)
    assert distance(found, one_big_batch(cfg, 6)) < 1e-9
    assert distance(found, reference) > 1e-3


def _always_no_sync(model, x, y, micro_batch, autocast):
    """The reference run's mistake: every forward pass inside no_sync, so that gradients
    are never averaged."""
    with model.no_sync() if hasattr(model, "no_sync") else bt.contextlib.nullcontext():
        _, loss = model(x, y)
    loss.backward()
    return loss.detach()


def _only_backward_in_sync(model, x, y, micro_batch, autocast):
    """no_sync around the forward passes only: DDP reads the switch there, so the last
    backward does not average either."""
    pieces = list(zip(x.split(micro_batch), y.split(micro_batch)))
    for xi, yi in pieces:
        with model.no_sync():
            _, loss = model(xi, yi)
        (loss / len(pieces)).backward()
    return loss.detach()


def _lost_pieces(model, x, y, micro_batch, autocast):
    """zero_grad inside the loop: only the last piece counts."""
    for xi, yi in zip(x.split(micro_batch), y.split(micro_batch)):
        model.zero_grad()
        _, loss = model(xi, yi)
        loss.backward()
    return loss.detach()


def _undivided(model, x, y, micro_batch, autocast):
    """The losses of the pieces summed instead of averaged."""
    for xi, yi in zip(x.split(micro_batch), y.split(micro_batch)):
        _, loss = model(xi, yi)
        loss.backward()
    return loss.detach()


def _broken_worker(cfg, name):
    bt._accumulate = globals()[name]
    torch.set_num_threads(1)
    return train(TrainConfig(**cfg))


@pytest.mark.parametrize("mistake", ["_always_no_sync", "_only_backward_in_sync"])
def test_the_comparison_catches_gradients_that_are_not_averaged(
    tiny, reference, mistake
):
    cfg = replace(tiny, dtype="float64", micro_batch=2, nproc=2)
    launch_workers(_broken_worker, 2, asdict(cfg), mistake)
    assert distance(weights(tiny.run_dir, 6), reference) > 1e-5


@pytest.mark.parametrize("mistake", ["_lost_pieces", "_undivided"])
def test_the_comparison_catches_lost_accumulation(
    tiny, reference, mistake, monkeypatch
):
    monkeypatch.setattr(bt, "_accumulate", globals()[mistake])
    train(replace(tiny, dtype="float64", micro_batch=2, grad_clip=1e9))
    right = one_big_batch(replace(tiny, grad_clip=1e9), 6)
    # Adam hardly feels the size of a gradient, but the first moments do
    assert distance(weights(tiny.run_dir, 6), right) > 1e-6


# --- going on


TIMES = {"tok_per_s", "data_wait_s", "memory_mb", "look_s", "checkpoint_s", "mfu"}


def without_times(metrics):
    return [{k: m[k] for k in m if k not in TIMES} for m in metrics]


@pytest.mark.parametrize("world, optimizer", [(1, "adamw"), (2, "muon"), (4, "adamw")])
def test_killed_and_resumed_it_is_the_same_run_to_the_bit(
    tiny, tmp_path, world, optimizer
):
    how = dict(nproc=world, optimizer=optimizer, max_steps=40, micro_batch=1)
    how |= dict(checkpoint_every=7, hellaswag_every=20, sample_every=20)
    how |= dict(sample_tokens=20, modes="train,validate,evaluate,sample")
    cfg = replace(tiny, **how)
    straight = replace(cfg, run_dir=str(tmp_path / "straight"))
    killed = replace(cfg, run_dir=str(tmp_path / "killed"))
    start = train if world == 1 else launch
    start(straight)
    process = subprocess.Popen(
        command(killed),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(read_metrics(killed.run_dir)) >= 16, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = len(read_metrics(killed.run_dir)) - 1
    assert reached < 40
    found = start(killed)
    assert 0 < found["began_at"] <= reached and found["began_at"] % 7 == 0
    assert found["finished"]
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        expected = (checkpoint(straight.run_dir, 40) / name).read_bytes()
        assert (checkpoint(killed.run_dir, 40) / name).read_bytes() == expected, name
    expected, metrics = read_metrics(straight.run_dir), read_metrics(killed.run_dir)
    assert without_times(expected) == without_times(metrics)
    assert [m["step"] for m in metrics] == list(range(41))
    samples = (tmp_path / "straight/samples.txt").read_text()
    assert (tmp_path / "killed/samples.txt").read_text() == samples


def test_resumed_with_another_number_of_processes(tiny, reference):
    cfg = replace(tiny, dtype="float64", checkpoint_every=3)
    train(replace(cfg, keep_checkpoints=9))
    shutil.rmtree(checkpoint(tiny.run_dir, 6))
    found = launch(replace(cfg, nproc=2, micro_batch=2))
    assert found["began_at"] == 3
    assert distance(weights(tiny.run_dir, 6), reference) < 1e-9


def test_a_finished_run_is_reported_not_repeated(tiny, capsys):
    first = train(tiny)
    model = checkpoint(tiny.run_dir, 6) / "model.safetensors"
    stamp = model.stat().st_mtime_ns
    capsys.readouterr()
    again = train(tiny)
    assert "is finished" in capsys.readouterr().out and again == first | {"began_at": 6}
    assert model.stat().st_mtime_ns == stamp
    assert len(read_metrics(tiny.run_dir)) == 7
    with pytest.raises(ValueError, match="resume is 'never'"):
        train(replace(tiny, resume="never"))
    with pytest.raises(ValueError, match="lr: 0.01 → 0.02"):
        train(replace(tiny, lr=0.02))


def test_only_the_last_checkpoints_are_kept_and_an_unfinished_one_is_ignored(tiny):
    train(tiny)
    folder = Path(tiny.run_dir, "checkpoints")
    assert sorted(p.name for p in folder.iterdir()) == ["step_000004", "step_000006"]
    # as a kill in the middle of writing leaves it
    (folder / "step_000006").rename(folder / "step_000006.tmp")
    assert train(tiny)["began_at"] == 4
    assert sorted(p.name for p in folder.iterdir()) == ["step_000004", "step_000006"]


def test_another_tokenizer_is_refused(tiny, tmp_path):
    train(tiny)
    path = Path(tiny.run_dir, "config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tokenizer": "gpt2:400"}))
    message = "was trained with the tokenizer .*, not gpt2:400"
    with pytest.raises(ValueError, match=message):
        train(replace(tiny, tokenizer="gpt2:400", data_dir=str(tmp_path / "other")))


# --- what a run shows


def test_modes_alone_look_at_the_last_checkpoint(tiny):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        train(replace(tiny, modes="validate"))
    trained = train(tiny)
    # shape and data come from the run's own config.json, not from the call
    where = dict(run_dir=tiny.run_dir, data_dir=tiny.data_dir)
    looked = train(TrainConfig(modes="validate,evaluate,sample", nproc=1, **where))
    assert looked["val_bpb"] == pytest.approx(trained["val_bpb"], abs=1e-12)
    assert 0 <= looked["hellaswag"] <= 1
    samples = Path(tiny.run_dir, "samples.txt").read_text(encoding="utf-8")
    assert samples.startswith("=== step 6\n")
    assert len(read_metrics(tiny.run_dir)) == 7


def test_a_run_can_be_loaded_without_its_data(tiny):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_run(tiny.run_dir)
    trained = train(tiny)
    model, enc = load_run(tiny.run_dir)
    ours, _, tokens = prepare(tiny)
    text = "Zażółć gęślą jaźń"
    assert enc.encode_ordinary(text) == ours.encode_ordinary(text)
    assert not model.training
    found = bt.validate(model, enc, tokens, tiny, torch.device("cpu"))
    assert found["val_loss"] == pytest.approx(trained["val_loss"], abs=1e-9)


@pytest.mark.parametrize("val_tokens", [20, 32, 500, 2_000, 10**6])
def test_validation_against_a_plain_sum(tiny, val_tokens):
    """Every token once, whatever number of them: a row begins where the one before it
    ended, the last may be short."""
    cfg = replace(tiny, val_tokens=val_tokens, micro_batch=3)
    enc, _, tokens = prepare(cfg)
    model = GPT(cfg.model_config(enc.n_vocab))
    n = min(val_tokens, len(tokens))
    ids = torch.from_numpy(np.append(enc.eot_token, tokens[:n]).astype(np.int64))
    nats = 0.0
    for i in range(0, n, 32):
        end = min(i + 32, n)
        x, y = ids[i:end], ids[i + 1 : end + 1]
        with torch.no_grad():
            logp = model(x[None])[0][0].double().log_softmax(-1)
        nats -= logp[torch.arange(len(y)), y].sum().item()
    text = [t for t in ids[1:].tolist() if t != enc.eot_token]
    n_bytes = len(enc.decode_bytes(text))
    found = bt.validate(model, enc, tokens, cfg, torch.device("cpu"))
    assert found["val_loss"] == pytest.approx(nats / n, rel=1e-6)
    assert found["val_bpb"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)


def test_validation_builds_no_graph(tiny):
    enc, _, tokens = prepare(tiny)
    model, seen = GPT(tiny.model_config(enc.n_vocab)), []
    model.register_forward_hook(
        lambda module, args, out: seen.append(out[1].requires_grad)
    )
    bt.validate(model, enc, tokens, tiny, torch.device("cpu"))
    assert seen and not any(seen)


def test_a_run_learns_and_says_so(tiny):
    every = dict(checkpoint_every=0, hellaswag_every=45, sample_every=45)
    modes = "train,validate,evaluate,sample"
    found = train(replace(tiny, max_steps=90, modes=modes, **every))
    metrics = read_metrics(tiny.run_dir)
    assert found["val_bpb"] < found["val_bpb_first"] - 0.4
    assert metrics[-1]["loss"] < metrics[1]["loss"] - 1
    names = {"step", "loss", "lr", "grad_norm", "tokens"}
    names |= {"tok_per_s", "data_wait_s", "memory_mb"}
    assert metrics[1].keys() >= names
    assert [m["step"] for m in metrics if "hellaswag" in m] == [0, 45, 90]
    assert metrics[-1]["hellaswag_n"] >= 40
    samples = Path(tiny.run_dir, "samples.txt").read_text(encoding="utf-8")
    assert samples.count("=== step") == 3
    assert list(Path(tiny.run_dir).glob("tensorboard/events.*"))
    folders = list(Path(tiny.run_dir, "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step_000090"]


def test_bfloat16_autocast_learns_too(tiny):
    how = dict(max_steps=40, sample_every=40, sample_tokens=50)
    modes = "train,validate,evaluate,sample"
    found = train(replace(tiny, dtype="bfloat16", modes=modes, **how))
    assert found["val_bpb"] < found["val_bpb_first"] - 0.3
    assert weights(tiny.run_dir, 40)["wte.weight"].dtype == torch.float32


def test_the_gradients_size_does_not_depend_on_the_precision(tiny):
    """No scaler stands between the loss and the clip: bfloat16 has float32's range."""
    norms = []
    for dtype in ("float32", "bfloat16"):
        run_dir = f"{tiny.run_dir}-{dtype}"
        train(replace(tiny, dtype=dtype, max_steps=1, run_dir=run_dir, modes="train"))
        norms.append(read_metrics(run_dir)[1]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_the_clock_waits_for_the_device(tiny, monkeypatch):
    meter = object.__new__(Meter)
    meter.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: time.sleep(0.2))
    began = time.perf_counter()
    assert meter.clock() - began >= 0.2
    # and the speed is what this clock says: two seconds a step
    ticks = iter(range(0, 100, 2))
    monkeypatch.setattr(Meter, "clock", lambda self: next(ticks))
    train(replace(tiny, modes="train"))
    speeds = [m["tok_per_s"] for m in read_metrics(tiny.run_dir)[1:]]
    assert speeds == [tiny.tokens_per_step / 2] * 6


def test_it_prepares_only_the_tokens_it_needs(tiny, tmp_path):
    cfg = replace(tiny, data_dir=str(tmp_path / "own"), val_tokens=300)
    train(cfg)
    need = cfg.max_steps * cfg.tokens_per_step + 1
    first = TokenFile(tmp_path / "own", "train")
    assert need <= len(first) < need + 1000
    assert 301 <= len(TokenFile(tmp_path / "own", "test")) < 1500
    # more steps: the file grows, its beginning stays
    train(replace(cfg, max_steps=12, run_dir=str(tmp_path / "longer")))
    more = TokenFile(tmp_path / "own", "train")
    assert len(more) >= 12 * cfg.tokens_per_step + 1
    assert (more.tokens[: len(first)] == first.tokens).all()
    # and the short run is still the run that it was
    train(replace(cfg, run_dir=str(tmp_path / "again")))
    assert distance(weights(tmp_path / "again", 6), weights(tiny.run_dir, 6)) == 0


def test_a_corpus_of_ones_own_is_divided(tiny, tmp_path, polish):
    mine, own = tmp_path / "mine.jsonl", tmp_path / "own"
    write_jsonl(mine, [{"text": t} for t in polish[:32] * 3])
    cfg = replace(tiny, corpus=str(mine), data_dir=str(own), max_steps=2)
    assert train(cfg)["finished"]
    assert TokenFile(own, "test").meta["documents"] == 2


def test_too_small_a_corpus_is_named(tiny, tmp_path):
    small, own = tmp_path / "small.txt", tmp_path / "own"
    small.write_text("Ala ma kota.\nKot ma Alę.\n" * 3)
    with pytest.raises(ValueError, match="do not fill one batch"):
        train(replace(tiny, corpus=str(small), data_dir=str(own)))


# --- processes


def test_processes_must_divide_the_lanes_and_a_failure_has_its_message(tiny):
    with pytest.raises(ValueError, match="3 processes cannot share 4 lanes evenly"):
        launch(tiny, nproc=3)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    message = "FileNotFoundError: no corpus 'nowhere': .*matches it$"
    with pytest.raises(RuntimeError, match=rf"process \d of 2 failed: {message}"):
        launch(replace(tiny, corpus="nowhere", data_dir=tiny.run_dir), nproc=2)
    # the elastic launcher's handler is gone
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_DFL


def run(command, **env):
    """What a run prints at its end."""
    env = {**os.environ, **env}
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_torchrun_and_the_module_do_the_same(tiny, tmp_path):
    cfg = replace(tiny, nproc=2, micro_batch=4)
    assert run(command(replace(cfg, run_dir=str(tmp_path / "module"))))["step"] == 6
    python, *module = command(replace(cfg, run_dir=str(tmp_path / "torchrun")))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [python, *torchrun, *module], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "module", 6), weights(tmp_path / "torchrun", 6)
    assert distance(ours, theirs) == 0


def test_workers_leave_when_their_launcher_is_killed(tiny):
    process = subprocess.Popen(
        command(replace(tiny, nproc=2, max_steps=100_000, checkpoint_every=0)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(read_metrics(tiny.run_dir)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def all_gone():
        found = subprocess.run(
            ["pgrep", "-f", "multiprocessing.spawn"], text=True, capture_output=True
        )
        return not any(tiny.run_dir in open_files(pid) for pid in found.stdout.split())

    wait_for(all_gone)


def open_files(pid):
    try:
        return " ".join(str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return ""


def test_papermill_really_sets_the_parameters(tmp_path):
    given = dict(
        corpus="embedded",
        hellaswag="embedded",
        tokenizer="gpt2:300",
        n_layer=1,
        n_head=2,
        n_embd=32,
        block_size=16,
        rows=1,
        max_steps=3,
        warmup_steps=1,
        nproc=1,
        run_dir=str(tmp_path / "pm"),
        data_dir=str(tmp_path / "d"),
    )
    out = tmp_path / "out.ipynb"
    papermill = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    papermill += ["nbs/05_train.ipynb", out]
    for name, value in given.items():
        papermill += ["-p", name, str(value)]
    # with it, a kernel does not show what its child processes print
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(papermill, cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "pm/config.json").read_text())
    assert {k: config[k] for k in given} == given
    assert [m["step"] for m in read_metrics(tmp_path / "pm")] == [0, 1, 2, 3]
    cells = json.loads(out.read_text())["cells"]
    outputs = json.dumps([cell.get("outputs") for cell in cells])
    assert "image/png" in outputs and "step 3/3" in outputs


def test_paths_are_counted_from_the_root(monkeypatch, tmp_path):
    for folder in (ROOT, ROOT / "nbs", ROOT / "tests"):
        monkeypatch.chdir(folder)
        assert run_dir_of(TrainConfig()) == ROOT / "runs/laptop"
        assert data_dir_of(TrainConfig()).parent == ROOT / "data"
    monkeypatch.chdir(tmp_path)
    assert run_dir_of(TrainConfig()) == tmp_path / "runs/laptop"


def test_fineweb2_and_hellaswagx_through_the_real_client(tiny, hub, tmp_path):
    real = dict(corpus="fineweb2", hellaswag="hellaswagx")
    modes = "train,validate,evaluate"
    cfg = replace(tiny, modes=modes, data_dir=str(tmp_path / "d"), **real)
    found = run(command(cfg), **hub.env)
    assert found["finished"] and found["hellaswag_n"] == 12


def test_half_an_environment_of_a_launcher_is_told(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    message = "is set in the environment and RANK, .* is not: start the processes with"
    with pytest.raises(ValueError, match=f"WORLD_SIZE {message} torchrun"):
        train(tiny)
