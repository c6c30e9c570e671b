import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from conftest import ROOT, command, wait_for
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import babygpt.train as bt
from babygpt.chunk import TokenFile
from babygpt.model import GPT
from babygpt.train import PRESETS, TrainConfig, launch, load_run, lr_at, read_metrics, train


def weights(run_dir, step):
    return load_file(f"{run_dir}/checkpoints/step_{step:06d}/model.safetensors")


def distance(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in a)


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_reference_run_is_a_preset():
    cfg = PRESETS["a40x8"]
    assert cfg.tokens_per_step == 524_288 and (cfg.max_steps, cfg.warmup_steps, cfg.lr, cfg.min_lr) == (10_000, 1_000, 6e-4, 6e-5)
    assert (cfg.weight_decay, cfg.beta1, cfg.beta2, cfg.grad_clip, cfg.corpus, cfg.tokenizer) == (0.1, 0.9, 0.95, 1.0, "fineweb2", "gpt2")
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(cfg.model_config(50257)).parameters()) == 124_439_808
        assert sum(p.numel() for p in GPT(PRESETS["modern"].model_config(50257)).parameters()) == 124_439_808 - 1024 * 768  # positions turn


def test_learning_rate():
    cfg = PRESETS["a40x8"]
    rates = [lr_at(s, cfg) for s in range(10_001)]
    assert rates[0] == 6e-7 and rates[999] == rates[1000] == max(rates) == 6e-4 and rates[-1] == pytest.approx(6e-5)
    assert rates[5500] == pytest.approx((6e-4 + 6e-5) / 2) and all(a > b for a, b in zip(rates[1000:], rates[1001:]))
    assert lr_at(0, replace(cfg, warmup_steps=0)) == 6e-4


def test_learning_rate_that_stays_up():
    cfg = replace(TrainConfig(), schedule="wsd", max_steps=100, warmup_steps=10, lr=2.0, min_lr=0.0)
    rates = [lr_at(s, cfg) for s in range(102)]
    assert rates[:10] == pytest.approx([0.2 * s for s in range(1, 11)]) and set(rates[10:61]) == {2.0}
    assert rates[61:101] == pytest.approx([2 - 0.05 * s for s in range(1, 41)]) and rates[100] == rates[101] == 0
    assert lr_at(80, replace(cfg, min_lr=1.0)) == pytest.approx(1.5)


def test_decay_on_matrices_only():
    model = GPT(TrainConfig().model_config(300))
    groups = bt._optimizer(model, TrainConfig()).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {names[id(p)] for p in groups[0]["params"]}
    assert groups[0]["weight_decay"] == 0.1 and groups[1]["weight_decay"] == 0
    assert decayed == {n for n, p in model.named_parameters() if n.endswith(".weight") and "ln_" not in n}
    assert len(groups[0]["params"]) + len(groups[1]["params"]) == len(names)


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest():
    cfg = replace(TrainConfig(), optimizer="muon")
    model = GPT(cfg.model_config(300))
    names = {id(p): n for n, p in model.named_parameters()}
    muon, adamw = ([{names[id(p)] for p in g["params"]} for g in part.param_groups] for part in bt._optimizer(model, cfg).parts)
    assert muon == [{f"h.{i}.{m}.weight" for i in range(4) for m in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}]
    assert adamw[0] == {"wte.weight"} and adamw[1] == set(names.values()) - muon[0] - adamw[0]


@pytest.mark.parametrize(
    "change, message",
    [({"modes": "train,evalate"}, "unknown evalate"), ({"resume": "yes"}, "resume 'yes'"), ({"dtype": "float16"}, "dtype"), ({"optimizer": "sgd"}, "optimizer 'sgd': expected one of adamw, muon"), ({"schedule": "linear"}, "schedule 'linear'"), ({"rows": 0}, "rows 0"), ({"n_head": 5}, "n_head must divide"), ({"lr": "fast"}, "lr 'fast': expected float"), ({"max_steps": 1.5}, "max_steps 1.5: expected int"), ({"compile": 1}, "compile 1: expected bool"), ({"micro_batch": "half"}, "micro_batch 'half'"), ({"micro_batch": 0}, "micro_batch 0")],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TrainConfig(), **change)


def test_every_field_is_a_flag(monkeypatch):
    seen = []
    monkeypatch.setattr(bt, "launch", lambda cfg: seen.append(cfg) or {})
    other = {bool: lambda v: not v, int: lambda v: v + v, int | str: lambda v: v + v, float: lambda v: v / 2}
    for f in fields(TrainConfig):
        if f.name in ("preset", "modes", "resume", "dtype", "optimizer", "schedule", "pos", "act", "nproc", "n_head", "n_lanes"):
            continue
        value = other.get(f.type, lambda v: "x")(f.default)
        bt.main([f"--{f.name}", str(value)])
        assert seen.pop() == replace(TrainConfig(), **{f.name: value if value != f.default else f.default})
    bt.main(["--micro_batch", "auto"])
    assert seen.pop().micro_batch == "auto"
    bt.main(["--preset", "a40x8", "--max_steps", "40", "--pos", "rope", "--act", "relu2", "--optimizer", "muon", "--schedule", "wsd", "--modes", "train"])
    assert seen.pop() == replace(PRESETS["a40x8"], max_steps=40, pos="rope", act="relu2", optimizer="muon", schedule="wsd", modes="train")


# --- one batch, however it is divided --------------------------------------------------------------------------------


def one_big_batch(cfg, steps):
    """The same optimisation with nothing but torch: all rows in one forward pass, AdamW unfused, Muon for the blocks' matrices where it is asked for."""
    enc, tokens, _ = bt._prepare(cfg)
    torch.manual_seed(cfg.seed)
    model = GPT(cfg.model_config(enc.n_vocab)).double()
    matrices, others = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() == 1]
    optimizers = []
    if cfg.optimizer == "muon":
        optimizers, matrices = [torch.optim.Muon(matrices[-4 * cfg.n_layer :], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")], matrices[: -4 * cfg.n_layer]
    optimizers += [torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1, betas=(0.9, 0.95), foreach=False)]
    lanes = bt.Lanes(tokens, bt.find_chunks(tokens.tokens[: bt._tokens_needed(cfg, tokens)], cfg.chunk_size, enc.eot_token, cfg.window), cfg.n_lanes, rows=cfg.rows, block_size=cfg.block_size, seed=cfg.seed)
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
    cfg = TrainConfig(
        corpus="embedded", pos="learned", act="gelu", qk_norm=False,
        tokenizer="bpe:400", n_layer=2, n_head=2, n_embd=32, block_size=32, n_lanes=4, rows=2, chunk_size=500, window=400,
        max_steps=6, warmup_steps=2, lr=1e-2, min_lr=1e-3, val_tokens=2_000, data_dir=data,
    )  # fmt: skip
    return one_big_batch(cfg, 6)


VALIDATION = {}


@pytest.mark.parametrize("world, micro_batch", [(1, 8), (1, 2), (1, 3), (2, 4), (2, 1), (4, 1)])
def test_processes_times_pieces_equal_one_big_batch(tiny, reference, world, micro_batch):
    cfg = replace(tiny, dtype="float64", micro_batch=micro_batch, nproc=world)
    found = train(cfg) if world == 1 else launch(cfg)
    assert distance(weights(tiny.run_dir, 6), reference) < 1e-9
    VALIDATION[world, micro_batch] = [(m["step"], m["val_loss"], m["val_bpb"]) for m in read_metrics(tiny.run_dir) if "val_bpb" in m]
    first = next(iter(VALIDATION.values()))
    np.testing.assert_allclose(VALIDATION[world, micro_batch], first, rtol=1e-9)  # the same held-out tokens for all
    assert [v[0] for v in first] == [0, 3, 6] and found["finished"]


def test_muon_over_processes_equals_one_big_batch(tiny, reference):
    cfg = replace(tiny, optimizer="muon", schedule="wsd", dtype="float64", micro_batch=2, nproc=2)
    launch(cfg)
    assert distance(weights(tiny.run_dir, 6), one_big_batch(cfg, 6)) < 1e-9 < 1e-3 < distance(weights(tiny.run_dir, 6), reference)


def _always_no_sync(model, x, y, micro_batch, autocast):
    "The reference run's mistake: every forward pass inside no_sync, so that gradients are never averaged."
    with model.no_sync() if hasattr(model, "no_sync") else bt.contextlib.nullcontext():
        _, loss = model(x, y)
    loss.backward()
    return loss.detach()


def _only_backward_in_sync(model, x, y, micro_batch, autocast):
    "no_sync around the forward passes only: DDP reads the switch there, so the last backward does not average either."
    pieces = list(zip(x.split(micro_batch), y.split(micro_batch)))
    for xi, yi in pieces:
        with model.no_sync():
            _, loss = model(xi, yi)
        (loss / len(pieces)).backward()
    return loss.detach()


def _lost_pieces(model, x, y, micro_batch, autocast):
    "zero_grad inside the loop: only the last piece counts."
    for xi, yi in zip(x.split(micro_batch), y.split(micro_batch)):
        model.zero_grad()
        _, loss = model(xi, yi)
        loss.backward()
    return loss.detach()


def _undivided(model, x, y, micro_batch, autocast):
    "The losses of the pieces summed instead of averaged."
    for xi, yi in zip(x.split(micro_batch), y.split(micro_batch)):
        _, loss = model(xi, yi)
        loss.backward()
    return loss.detach()


def _broken_worker(cfg, name):
    bt._accumulate = globals()[name]
    torch.set_num_threads(1)
    return train(TrainConfig(**cfg))


@pytest.mark.parametrize("mistake", ["_always_no_sync", "_only_backward_in_sync"])
def test_the_comparison_catches_gradients_that_are_not_averaged(tiny, reference, mistake):
    cfg = replace(tiny, dtype="float64", micro_batch=2, nproc=2)
    config = LaunchConfig(1, 1, 2, run_id=mistake, rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, monitor_interval=0.2)
    elastic_launch(config, _broken_worker)(asdict(cfg), mistake)
    assert distance(weights(tiny.run_dir, 6), reference) > 1e-5


@pytest.mark.parametrize("mistake", ["_lost_pieces", "_undivided"])
def test_the_comparison_catches_lost_accumulation(tiny, reference, mistake, monkeypatch):
    monkeypatch.setattr(bt, "_accumulate", globals()[mistake])
    train(replace(tiny, dtype="float64", micro_batch=2, grad_clip=1e9))
    right = one_big_batch(replace(tiny, grad_clip=1e9), 6)
    # Adam hardly feels the size of a gradient, but the first moments do
    assert distance(weights(tiny.run_dir, 6), right) > 1e-6


# --- going on --------------------------------------------------------------------------------------------------------


def without_times(metrics):
    return [{k: v for k, v in m.items() if k not in ("tok_per_s", "data_wait_s", "memory_mb", "look_s", "checkpoint_s", "mfu")} for m in metrics]


@pytest.mark.parametrize("world, optimizer", [(1, "adamw"), (2, "muon"), (4, "adamw")])
def test_killed_and_resumed_it_is_the_same_run_to_the_bit(tiny, tmp_path, world, optimizer):
    cfg = replace(tiny, nproc=world, optimizer=optimizer, max_steps=40, checkpoint_every=7, micro_batch=1, hellaswag_every=20, sample_every=20, sample_tokens=20, modes="train,validate,evaluate,sample")
    straight, killed = (replace(cfg, run_dir=str(tmp_path / n)) for n in ("straight", "killed"))
    (train if world == 1 else launch)(straight)
    process = subprocess.Popen(command(killed), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(read_metrics(killed.run_dir)) >= 16, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = len(read_metrics(killed.run_dir)) - 1
    assert reached < 40
    found = (train if world == 1 else launch)(killed)
    assert 0 < found["began_at"] <= reached and found["began_at"] % 7 == 0 and found["finished"]
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        a, b = ((tmp_path / n / "checkpoints/step_000040" / name).read_bytes() for n in ("straight", "killed"))
        assert a == b, name
    assert without_times(read_metrics(straight.run_dir)) == without_times(read_metrics(killed.run_dir))
    assert [m["step"] for m in read_metrics(killed.run_dir)] == list(range(41))
    assert (tmp_path / "straight/samples.txt").read_text() == (tmp_path / "killed/samples.txt").read_text()


def test_resumed_with_another_number_of_processes(tiny, reference):
    train(replace(tiny, dtype="float64", checkpoint_every=3, keep_checkpoints=9))
    shutil.rmtree(f"{tiny.run_dir}/checkpoints/step_000006")
    found = launch(replace(tiny, dtype="float64", checkpoint_every=3, nproc=2, micro_batch=2))
    assert found["began_at"] == 3 and distance(weights(tiny.run_dir, 6), reference) < 1e-9


def test_a_finished_run_is_reported_not_repeated(tiny, capsys):
    first = train(tiny)
    stamp = os.stat(f"{tiny.run_dir}/checkpoints/step_000006/model.safetensors").st_mtime_ns
    capsys.readouterr()
    again = train(tiny)
    assert "is finished" in capsys.readouterr().out and again == first | {"began_at": 6}
    assert os.stat(f"{tiny.run_dir}/checkpoints/step_000006/model.safetensors").st_mtime_ns == stamp
    assert len(read_metrics(tiny.run_dir)) == 7
    with pytest.raises(ValueError, match="resume is 'never'"):
        train(replace(tiny, resume="never"))
    with pytest.raises(ValueError, match="lr: 0.01 → 0.02"):
        train(replace(tiny, lr=0.02))


def test_only_the_last_checkpoints_are_kept_and_an_unfinished_one_is_ignored(tiny):
    train(tiny)
    folder = bt.Path(tiny.run_dir, "checkpoints")
    assert sorted(p.name for p in folder.iterdir()) == ["step_000004", "step_000006"]
    (folder / "step_000006").rename(folder / "step_000006.tmp")  # as a kill in the middle of writing leaves it
    assert train(tiny)["began_at"] == 4
    assert sorted(p.name for p in folder.iterdir()) == ["step_000004", "step_000006"]


def test_another_tokenizer_is_refused(tiny, tmp_path):
    train(tiny)
    config = json.loads((bt.Path(tiny.run_dir) / "config.json").read_text())
    (bt.Path(tiny.run_dir) / "config.json").write_text(json.dumps(config | {"tokenizer": "gpt2:400"}))
    with pytest.raises(ValueError, match="was trained with the tokenizer .*, not gpt2:400"):
        train(replace(tiny, tokenizer="gpt2:400", data_dir=str(tmp_path / "other")))


# --- what a run shows ------------------------------------------------------------------------------------------------


def test_modes_alone_look_at_the_last_checkpoint(tiny):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        train(replace(tiny, modes="validate"))
    trained = train(tiny)
    # shape and data come from the run's own config.json, not from the call
    looked = train(replace(TrainConfig(), modes="validate,evaluate,sample", nproc=1, run_dir=tiny.run_dir, data_dir=tiny.data_dir))
    assert looked["val_bpb"] == pytest.approx(trained["val_bpb"], abs=1e-12) and 0 <= looked["hellaswag"] <= 1
    assert (bt.Path(tiny.run_dir) / "samples.txt").read_text(encoding="utf-8").startswith("=== step 6\n")
    assert len(read_metrics(tiny.run_dir)) == 7


def test_a_run_can_be_loaded_without_its_data(tiny):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_run(tiny.run_dir)
    trained = train(tiny)
    model, enc = load_run(tiny.run_dir)
    ours, _, tokens = bt._prepare(tiny)
    assert enc.encode_ordinary("Zażółć gęślą jaźń") == ours.encode_ordinary("Zażółć gęślą jaźń") and not model.training
    assert bt._validate(model, enc, tokens, tiny, torch.device("cpu"))["val_loss"] == pytest.approx(trained["val_loss"], abs=1e-9)


@pytest.mark.parametrize("val_tokens", [20, 32, 500, 2_000, 10**6])
def test_validation_against_a_plain_sum(tiny, val_tokens):
    """Every token once, whatever number of them: a row begins where the one before it ended, the last may be short."""
    cfg = replace(tiny, val_tokens=val_tokens, micro_batch=3)
    enc, _, tokens = bt._prepare(cfg)
    model = GPT(cfg.model_config(enc.n_vocab))
    n = min(val_tokens, len(tokens))
    ids = torch.from_numpy(np.append(enc.eot_token, tokens[:n]).astype(np.int64))
    nats = 0.0
    for i in range(0, n, 32):
        x, y = ids[i : min(i + 32, n)], ids[i + 1 : min(i + 32, n) + 1]
        with torch.no_grad():
            nats -= model(x[None])[0][0].double().log_softmax(-1)[torch.arange(len(y)), y].sum().item()
    n_bytes = sum(len(enc.decode_single_token_bytes(t)) for t in ids[1:].tolist() if t != enc.eot_token)
    found = bt._validate(model, enc, tokens, cfg, torch.device("cpu"))
    assert found["val_loss"] == pytest.approx(nats / n, rel=1e-6)
    assert found["val_bpb"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-6)


def test_validation_builds_no_graph(tiny):
    enc, _, tokens = bt._prepare(tiny)
    model, seen = GPT(tiny.model_config(enc.n_vocab)), []
    model.register_forward_hook(lambda module, args, out: seen.append(out[1].requires_grad))
    bt._validate(model, enc, tokens, tiny, torch.device("cpu"))
    assert seen and not any(seen)


def test_a_run_learns_and_says_so(tiny):
    found = train(replace(tiny, max_steps=90, checkpoint_every=0, modes="train,validate,evaluate,sample", hellaswag_every=45, sample_every=45))
    metrics = read_metrics(tiny.run_dir)
    assert found["val_bpb"] < found["val_bpb_first"] - 0.4 and metrics[-1]["loss"] < metrics[1]["loss"] - 1
    assert metrics[1].keys() >= {"step", "loss", "lr", "grad_norm", "tokens", "tok_per_s", "data_wait_s", "memory_mb"}
    assert [m["step"] for m in metrics if "hellaswag" in m] == [0, 45, 90] and metrics[-1]["hellaswag_n"] >= 40
    assert (bt.Path(tiny.run_dir) / "samples.txt").read_text(encoding="utf-8").count("=== step") == 3
    assert list(bt.Path(tiny.run_dir).glob("tensorboard/events.*"))
    assert sorted(p.name for p in bt.Path(tiny.run_dir, "checkpoints").iterdir()) == ["step_000090"]


def test_bfloat16_autocast_learns_too(tiny):
    found = train(replace(tiny, dtype="bfloat16", max_steps=40, modes="train,validate,evaluate,sample", sample_every=40, sample_tokens=50))
    assert found["val_bpb"] < found["val_bpb_first"] - 0.3
    assert weights(tiny.run_dir, 40)["wte.weight"].dtype == torch.float32


def test_the_gradients_size_does_not_depend_on_the_precision(tiny):
    """No scaler stands between the loss and the clip: bfloat16 has float32's range."""
    norms = []
    for dtype in ("float32", "bfloat16"):
        train(replace(tiny, dtype=dtype, max_steps=1, run_dir=f"{tiny.run_dir}-{dtype}", modes="train"))
        norms.append(read_metrics(f"{tiny.run_dir}-{dtype}")[1]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_the_clock_waits_for_the_device(tiny, monkeypatch):
    run = object.__new__(bt._Run)
    run.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: time.sleep(0.2))
    began = time.perf_counter()
    assert run.clock() - began >= 0.2
    ticks = iter(range(0, 100, 2))  # and the speed is what this clock says: two seconds a step
    monkeypatch.setattr(bt._Run, "clock", lambda self: next(ticks))
    train(replace(tiny, modes="train"))
    assert [m["tok_per_s"] for m in read_metrics(tiny.run_dir)[1:]] == [tiny.tokens_per_step / 2] * 6


def test_it_prepares_only_the_tokens_it_needs(tiny, tmp_path):
    cfg = replace(tiny, data_dir=str(tmp_path / "own"), val_tokens=300)
    train(cfg)
    need = cfg.max_steps * cfg.tokens_per_step + 1
    first = TokenFile(tmp_path / "own", "train")
    assert need <= len(first) < need + 1000 and 301 <= len(TokenFile(tmp_path / "own", "test")) < 1500
    train(replace(cfg, max_steps=12, run_dir=str(tmp_path / "longer")))  # more steps: the file grows, its beginning stays
    more = TokenFile(tmp_path / "own", "train")
    assert len(more) >= 12 * cfg.tokens_per_step + 1 and (more.tokens[: len(first)] == first.tokens).all()
    train(replace(cfg, run_dir=str(tmp_path / "again")))  # and the short run is still the run that it was
    assert distance(weights(tmp_path / "again", 6), weights(tiny.run_dir, 6)) == 0


def test_a_corpus_of_ones_own_is_divided(tiny, tmp_path, polish):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in polish[:32] * 3), encoding="utf-8")
    cfg = replace(tiny, corpus=str(tmp_path / "mine.jsonl"), data_dir=str(tmp_path / "own"), max_steps=2)
    assert train(cfg)["finished"] and TokenFile(tmp_path / "own", "test").meta["documents"] == 2


def test_too_small_a_corpus_is_named(tiny, tmp_path):
    (tmp_path / "small.txt").write_text("Ala ma kota.\nKot ma Alę.\n" * 3)
    with pytest.raises(ValueError, match="do not fill one batch"):
        train(replace(tiny, corpus=str(tmp_path / "small.txt"), data_dir=str(tmp_path / "own")))


# --- processes -------------------------------------------------------------------------------------------------------


def test_processes_must_divide_the_lanes_and_a_failure_has_its_message(tiny):
    with pytest.raises(ValueError, match="3 processes cannot share 4 lanes evenly"):
        launch(tiny, nproc=3)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(RuntimeError, match=r"process \d of 2 failed: FileNotFoundError: no corpus 'nowhere': .*matches it$"):
        launch(replace(tiny, corpus="nowhere", data_dir=tiny.run_dir), nproc=2)
    assert signal.signal(signal.SIGTERM, before) == signal.SIG_DFL  # the elastic launcher's handler is gone


def test_torchrun_and_the_module_do_the_same(tiny, tmp_path):
    runs = {name: replace(tiny, nproc=2, micro_batch=4, run_dir=str(tmp_path / name)) for name in ("module", "torchrun")}
    done = subprocess.run(command(runs["module"]), cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout[done.stdout.index("{") :])["step"] == 6, done.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "babygpt.train", *command(runs["torchrun"])[3:]]
    done = subprocess.run(torchrun, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert distance(weights(tmp_path / "module", 6), weights(tmp_path / "torchrun", 6)) == 0


def test_workers_leave_when_their_launcher_is_killed(tiny):
    process = subprocess.Popen(command(replace(tiny, nproc=2, max_steps=100_000, checkpoint_every=0)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(read_metrics(tiny.run_dir)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def alive():
        mine = subprocess.run(["pgrep", "-f", "multiprocessing.spawn"], text=True, capture_output=True).stdout.split()
        return [p for p in mine if os.path.exists(f"/proc/{p}") and tiny.run_dir in open_files(p)]

    wait_for(lambda: not alive())


def open_files(pid):
    try:
        return " ".join(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return ""


def test_papermill_really_sets_the_parameters(tmp_path):
    given = dict(corpus="embedded", hellaswag="embedded", tokenizer="gpt2:300", n_layer=1, n_head=2, n_embd=32, block_size=16, rows=1, max_steps=3, warmup_steps=1, nproc=1, run_dir=str(tmp_path / "pm"), data_dir=str(tmp_path / "d"))
    flags = [str(a) for k, v in given.items() for a in ("-p", k, v)]
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}  # with it, a kernel does not show what its child processes print
    papermill = [sys.executable, "-m", "papermill", "--no-progress-bar", "nbs/05_train.ipynb", tmp_path / "out.ipynb", *flags]
    done = subprocess.run(papermill, cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "pm/config.json").read_text())
    assert {k: config[k] for k in given} == given and [m["step"] for m in read_metrics(tmp_path / "pm")] == [0, 1, 2, 3]
    outputs = json.dumps([c.get("outputs") for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"]])
    assert "image/png" in outputs and "step 3/3" in outputs


def test_paths_are_counted_from_the_root(monkeypatch, tmp_path):
    for folder in (ROOT, ROOT / "nbs", ROOT / "tests"):
        monkeypatch.chdir(folder)
        assert bt._run_dir(TrainConfig()) == ROOT / "runs/laptop" and bt._data_dir(TrainConfig()).parent == ROOT / "data"
    monkeypatch.chdir(tmp_path)
    assert bt._run_dir(TrainConfig()) == tmp_path / "runs/laptop"


def test_fineweb2_and_hellaswagx_through_the_real_client(tiny, hub, tmp_path):
    cfg = replace(tiny, corpus="fineweb2", hellaswag="hellaswagx", modes="train,validate,evaluate", data_dir=str(tmp_path / "d"))
    hub.sent = 0
    done = subprocess.run(command(cfg), cwd=ROOT, env={**os.environ, **hub.env}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["finished"] and found["hellaswag_n"] == 12


def test_half_an_environment_of_a_launcher_is_told(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE is set in the environment and RANK, .* is not: start the processes with torchrun"):
        train(tiny)
