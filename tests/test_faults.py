"""What goes wrong with a run, made to go wrong: nothing may be lost, and what is said
must help."""

import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, checkpoint, command, free_port, launch_workers, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import babygpt.checkpoint as bc
import babygpt.train as bt
from babygpt.chunk import TokenFile, write_tokens
from babygpt.corpus import load_corpus
from babygpt.engine import processes, rundir
from babygpt.engine.config import MAY_CHANGE
from babygpt.engine.prepare import tokens_needed
from babygpt.hellaswag import load_hellaswag, score
from babygpt.model import GPT, GPTConfig
from babygpt.tokenizer import get_tokenizer
from babygpt.train import TrainConfig, launch, load_run, read_metrics, train


@pytest.fixture
def tiny(tiny):
    """Smaller still: what is tried here is not the model."""
    return replace(tiny, n_layer=1, n_embd=16, max_steps=8, val_every=0, val_tokens=500)


def start(cfg, **kw):
    """The command, in a process group of its own."""
    return subprocess.Popen(
        command(cfg),
        cwd=ROOT,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kw,
    )


def n_steps(cfg):
    return len(read_metrics(cfg.run_dir)) - 1


def wait_for_step(cfg, step, *processes):
    """Until that step and the one after it are done."""
    wait_for(lambda: n_steps(cfg) > step, *processes)


def wait_for_step_or_end(cfg, step, process):
    """Until that step and the one after it are done, or the process has ended."""
    wait_for(lambda: n_steps(cfg) > step or process.poll() is not None)


def kill_all_of(process):
    """SIGKILL for the process and those that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def each_step_is_told_once(cfg, last):
    assert [m["step"] for m in read_metrics(cfg.run_dir)] == list(range(last + 1))


def checkpoints(cfg):
    """The names of what lies among a run's checkpoints."""
    return sorted(path.name for path in Path(cfg.run_dir, "checkpoints").iterdir())


def is_whole(cfg):
    """Every step told once, the last checkpoint there."""
    each_step_is_told_once(cfg, cfg.max_steps)
    assert checkpoint(cfg.run_dir, cfg.max_steps).is_dir()


def losses(cfg):
    return [(m["step"], m.get("loss")) for m in read_metrics(cfg.run_dir)]


def same_run(a, b):
    """Weights, moments, random state and losses of two finished runs, to the bit."""
    for name in bc._FILES:
        one = (checkpoint(a.run_dir, a.max_steps) / name).read_bytes()
        other = (checkpoint(b.run_dir, b.max_steps) / name).read_bytes()
        assert one == other, name
    assert losses(a) == losses(b)


def children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


# --- leaving


@pytest.mark.parametrize(
    "how, world", [("SIGTERM", 1), ("SIGTERM", 2), ("SIGINT to all", 2)]
)
def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_later(tiny, how, world):
    cfg = replace(tiny, max_steps=3000, checkpoint_every=0, nproc=world)
    process = start(cfg)
    wait_for_step(cfg, 20, process)
    if how == "SIGTERM":  # as a scheduler does: to the launcher alone
        process.send_signal(signal.SIGTERM)
    else:  # as a terminal does
        os.killpg(process.pid, signal.SIGINT)
    # no more than a moment: a scheduler gives half a minute
    said, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    reached = n_steps(cfg)
    assert 20 < reached < 3000
    message = f"left after step {reached}, whose checkpoint is written"
    assert f"asked to stop: {message}" in said
    assert checkpoints(cfg) == [f"step_{reached:06d}"]
    process = start(cfg)
    wait_for_step(cfg, reached + 20, process)
    kill_all_of(process)
    each_step_is_told_once(cfg, n_steps(cfg))


def test_the_stop_button_of_a_notebook(tiny):
    """`train` in the kernel's own process: SIGINT is heeded, and the kernel's handler
    is put back."""
    code = f"""
import os, signal, threading, time
from babygpt.train import TrainConfig, read_metrics, train
cfg = TrainConfig(**{asdict(replace(tiny, max_steps=3000))!r})
def stop():
    while len(read_metrics(cfg.run_dir)) < 20: time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
found = train(cfg)
restored = signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(found["interrupted"], found["finished"], found["step"], restored)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    interrupted, finished, step, restored = done.stdout.split()[-4:]
    assert (interrupted, finished) == ("True", "False"), done.stderr
    assert restored == "True" and 19 <= int(step) < 3000, done.stderr


# --- dying


def test_killed_at_random_moments_inside_checkpoints_too_it_is_the_same_run(
    tiny, tmp_path
):
    """A checkpoint after every step, so that most of the time one is being written."""
    cfg = replace(tiny, max_steps=400, checkpoint_every=1)
    straight = replace(cfg, run_dir=str(tmp_path / "straight"), checkpoint_every=0)
    train(straight)
    rng, kills = random.Random(0), 0
    while n_steps(cfg) < cfg.max_steps and kills < 6:
        process, before = start(cfg), n_steps(cfg)
        wait_for_step_or_end(cfg, before + 5, process)
        time.sleep(rng.random() * 0.3)
        kill_all_of(process)
        kills += 1
    assert kills >= 3
    train(cfg)
    is_whole(cfg)
    same_run(cfg, straight)
    for name in checkpoints(cfg):
        assert name.startswith("step_") and not name.endswith(".tmp")


def test_a_run_finishes_after_two_of_its_processes_died(tiny, tmp_path):
    """Rank 1, then rank 0, by kill -9; the launcher starts all again each time."""
    cfg = replace(tiny, max_steps=600, checkpoint_every=50, nproc=2)
    straight = replace(cfg, run_dir=str(tmp_path / "straight"))
    launch(straight)
    process = start(cfg)
    for rank, step in ((1, 120), (0, 320)):
        wait_for_step(cfg, step, process)
        workers = []
        for child in children(process.pid):
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                workers.append(child)
        os.kill(sorted(workers)[rank], signal.SIGKILL)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    assert said.count("all start again from the last checkpoint") == 2, said
    is_whole(cfg)
    same_run(cfg, straight)


@pytest.mark.parametrize("launchers", [1, 2])
def test_torchruns_own_restarts_do_it_too(tiny, tmp_path, launchers):
    """With two launchers only that of the dead process counts a restart, so they cannot
    agree on a start by counting."""
    cfg = replace(tiny, max_steps=200, checkpoint_every=50, nproc=2)
    straight = replace(cfg, run_dir=str(tmp_path / "straight"))
    launch(straight)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--max_restarts=2"]
    if launchers == 1:
        torchrun += ["--standalone", "--nproc_per_node=2"]
    else:
        torchrun += ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d"]
        torchrun += [f"--rdzv_endpoint=localhost:{free_port()}", "--rdzv_id=1"]
        torchrun += ["--local_addr=localhost"]
    torchrun += command(cfg)[1:]
    # as many threads as `launch` gives each: another number, other last bits
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    logs = [tmp_path / f"launcher{i}" for i in range(launchers)]
    processes = []
    for log in logs:
        with open(log, "w") as out:
            process = subprocess.Popen(
                torchrun,
                cwd=ROOT,
                env=env,
                start_new_session=True,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
    wait_for_step(cfg, 60, *processes)
    os.kill(max(children(processes[-1].pid)), signal.SIGKILL)
    codes = [p.wait(timeout=180) for p in processes]
    said = "".join(log.read_text()[-3000:] for log in logs)
    assert codes == [0] * launchers and "at step 50" in said, said
    is_whole(cfg)
    same_run(cfg, straight)


def _worker_elsewhere(cfg, threads):
    """`worker`, where each process has folders of its own, as on machines that share
    no disk."""
    torch.set_num_threads(1)
    for name in cfg.pop("prompt").split(","):
        cfg[name] += f"-{os.environ['RANK']}"
    return train(TrainConfig(**cfg))


@pytest.mark.parametrize(
    "apart, told",
    [
        ("run_dir", "process 1 sees another folder there than process 0"),
        ("data_dir", "process 1 does not see the tokens"),
    ],
)
def test_machines_that_do_not_share_a_disk_are_told(tiny, tmp_path, apart, told):
    cfg = replace(tiny, nproc=2, prompt=apart, data_dir=str(tmp_path / "data"))
    with pytest.raises(RuntimeError) as failed:
        processes.launch(_worker_elsewhere, (asdict(cfg), 1), 2)
    assert told in str(failed.value) and "that all machines share" in str(failed.value)
    assert not read_metrics(f"{cfg.run_dir}-0")


def test_a_process_that_never_comes_is_named(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = "process 1, 2 of 3 did not come within 0.5 s"
    with pytest.raises(bt.LostProcess, match=message):
        processes._clean_store(0, 3, 0.5)


def test_an_error_that_would_recur_is_not_tried_again(tiny):
    process = start(replace(tiny, corpus="nowhere", nproc=2, data_dir=tiny.run_dir))
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "start again" not in said
    assert "FileNotFoundError: no corpus 'nowhere'" in said


def _hanging_worker(cfg, rank_that_hangs):
    cfg, real = TrainConfig(**cfg), bt._accumulate

    def hang(model, *args):
        if int(os.environ["RANK"]) == rank_that_hangs and n_steps(cfg) > 2:
            # or the launcher waits half a minute before it kills it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(1000)
        return real(model, *args)

    bt._accumulate = hang
    torch.set_num_threads(1)
    return train(cfg)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_is_named(tiny, rank):
    cfg = replace(tiny, nproc=3, n_lanes=3, max_steps=30, timeout_s=5.0)
    with pytest.raises(Exception) as failed:
        launch_workers(_hanging_worker, 3, asdict(cfg), rank)
    said = failed.value.get_first_failure()[1].message["message"]
    assert said.startswith(f"LostProcess: process {rank} of 3 did not answer"), said


# --- damaged files


def flip(path, where=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("file", [*bc._FILES, "SHA256SUMS"])
@pytest.mark.parametrize("fault", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_passed_over(tiny, tmp_path, file, fault):
    straight = replace(tiny, run_dir=str(tmp_path / "straight"))
    train(straight)
    train(tiny)
    victim = checkpoint(tiny.run_dir, 8) / file
    if fault == "flipped":
        flip(victim, 0.3)
    elif fault == "truncated":
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        victim.unlink()
    message = r"step_000008 is damaged .*going back to the one before it"
    with pytest.warns(UserWarning, match=message):
        found = train(tiny)
    assert found["began_at"] == 6 and found["finished"]
    is_whole(tiny)
    same_run(tiny, straight)
    assert "damaged_step_000008" in checkpoints(tiny)


def test_when_all_checkpoints_are_damaged_nothing_is_begun_anew(tiny):
    train(tiny)
    for folder in Path(tiny.run_dir, "checkpoints").iterdir():
        flip(folder / "model.safetensors")
    before = read_metrics(tiny.run_dir)
    message = "all 2 checkpoints are damaged"
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=message):
        train(tiny)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=message):
        load_run(tiny.run_dir)
    assert read_metrics(tiny.run_dir) == before


def test_a_flipped_bit_in_the_tokens_is_found_before_it_is_learned(tiny, tmp_path):
    cfg = replace(tiny, data_dir=str(tmp_path / "data"))
    train(replace(cfg, max_steps=2))
    flip(tmp_path / "data/train.bin")
    message = r"train.bin: block 0 .* does not match its checksum"
    with pytest.raises(ValueError, match=message):
        train(replace(cfg, run_dir=str(tmp_path / "other"), max_steps=2))


class _Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "state.json"]
)
def test_nothing_is_ever_unpickled(tiny, tmp_path, file):
    """A checkpoint by somebody with bad intentions, its checksums in order."""
    train(tiny)
    bomb = _Bomb()
    bomb.path = str(tmp_path / "exploded")
    last = checkpoint(tiny.run_dir, 8)
    (last / file).write_bytes(pickle.dumps(bomb))
    sums = [f"{bc._sha256(last / name)}  {name}\n" for name in bc._FILES]
    (last / "SHA256SUMS").write_text("".join(sums))
    for use in (lambda: train(tiny), lambda: load_run(tiny.run_dir)):
        try:
            use()
        except (ValueError, OSError) as e:
            assert str(last) in str(e)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "exploded").exists()  # it would have


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tiny, tmp_path):
    """A real limit on the size of files: the third checkpoint's optimiser does not fit
    any more."""
    train(replace(tiny, max_steps=8, checkpoint_every=0))
    shutil.rmtree(Path(tiny.run_dir, "checkpoints"))
    code = f"""
import resource, sys
import babygpt.checkpoint as bc
import babygpt.train as bt
real = bc._write
def limited(dir, model, optimizer, step, enc):
    if step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    real(dir, model, optimizer, step, enc)
bc._write = limited
bt.train(bt.TrainConfig(**{asdict(tiny)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode != 0
    assert "step_000006 could not be written" in done.stderr
    good = "The last good checkpoint is step_000004"
    assert f"{good}; make room and start again" in done.stderr
    assert checkpoints(tiny) == ["step_000002", "step_000004"]
    assert train(tiny)["began_at"] == 4
    is_whole(tiny)


# --- numbers that are none


def spoil(monkeypatch, cfg, steps, value):
    """Make the loss of some steps infinite or no number."""
    real = bt._accumulate

    def accumulate(model, x, y, micro_batch, autocast):
        loss = real(model, x, y, micro_batch, autocast)
        # the number of the step in progress: step 0 has a line of its own
        if len(read_metrics(cfg.run_dir)) in steps:
            next(model.parameters()).grad.mul_(value)
        return loss

    monkeypatch.setattr(bt, "_accumulate", accumulate)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    tiny, monkeypatch, value
):
    spoil(monkeypatch, tiny, {3, 4, 6}, value)
    cfg = replace(tiny, checkpoint_every=1, keep_checkpoints=9)
    found = train(cfg)
    is_whole(cfg)
    assert found["skipped"] == 3 and found["finished"] and math.isfinite(found["loss"])
    told = [m for m in read_metrics(cfg.run_dir) if "skipped" in m]
    assert [(m["step"], m["skipped"]) for m in told] == [(3, 1), (4, 2), (6, 1)]
    after = {
        step: (checkpoint(cfg.run_dir, step) / "model.safetensors").read_bytes()
        for step in range(1, 9)
    }
    assert after[2] == after[3] == after[4] != after[5] == after[6] != after[7]


def test_after_too_many_in_a_row_it_stops_and_names_the_last_good_checkpoint(
    tiny, monkeypatch
):
    spoil(monkeypatch, tiny, range(5, 99), math.nan)
    bad = "not finite in 3 steps in a row, the last of them 7"
    good = "the last good checkpoint is step_000006"
    with pytest.raises(FloatingPointError, match=f"{bad}; {good}"):
        train(replace(tiny, max_skipped=3))
    monkeypatch.undo()
    assert train(tiny)["finished"]


# --- memory, and company


def raising(error):
    """A function that does nothing but raise it."""

    def function(*args, **kw):
        raise error

    return function


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
    ],
)
def test_auto_finds_the_micro_batch_that_fits(tiny, tmp_path, monkeypatch, error):
    forward, tried = GPT.forward, []

    def limited(self, idx, *args, **kw):
        tried.append(len(idx))
        if len(idx) > 3:
            raise error
        return forward(self, idx, *args, **kw)

    known = replace(tiny, run_dir=str(tmp_path / "known"), micro_batch=2, modes="train")
    train(known)
    monkeypatch.setattr(GPT, "forward", limited)
    cfg = replace(tiny, micro_batch="auto", modes="train")
    train(cfg)
    assert tried[:3] == [8, 4, 2] and set(tried[3:]) == {2}
    same_run(cfg, known)  # the global batch is what it was
    monkeypatch.setattr(GPT, "forward", raising(error))
    with pytest.raises(torch.OutOfMemoryError, match="not even one row fits"):
        train(replace(cfg, run_dir=str(tmp_path / "none")))


def test_another_error_is_not_taken_for_a_lack_of_memory(tiny, monkeypatch):
    error = RuntimeError("shape '[3]' is invalid")
    monkeypatch.setattr(GPT, "forward", raising(error))
    with pytest.raises(RuntimeError, match="is invalid"):
        train(replace(tiny, micro_batch="auto", modes="train"))


def test_two_runs_do_not_share_a_folder(tiny, monkeypatch):
    cfg = replace(tiny, max_steps=100_000)
    process = start(cfg)
    wait_for_step(cfg, 5, process)
    monkeypatch.setattr(bt, "_PATIENCE", 1)
    used = rf"is in use by process {process.pid} on .*"
    advice = "wait until it is done, or choose another folder"
    with pytest.raises(ValueError, match=f"{used}: {advice}"):
        train(cfg)
    # and the first goes on as if nothing had been
    wait_for_step(cfg, n_steps(cfg) + 20, process)
    kill_all_of(process)
    each_step_is_told_once(cfg, n_steps(cfg))


def test_a_new_run_waits_for_the_orphans_of_the_last_one(tiny):
    """Only the launcher is killed; its processes notice within a second, and the next
    run begins when they are gone."""
    cfg = replace(tiny, max_steps=2000, checkpoint_every=20, nproc=2)
    process = start(cfg)
    wait_for_step(cfg, 50, process)
    os.kill(process.pid, signal.SIGKILL)
    second = start(replace(cfg, max_steps=2000))
    time.sleep(5)  # the orphans are gone by now
    wait_for_step(cfg, n_steps(cfg) + 50, second)
    kill_all_of(second)
    each_step_is_told_once(cfg, n_steps(cfg))


# --- configurations


def test_what_may_change_between_runs_may_and_what_may_not_is_named(tiny):
    """Every field, by name."""
    train(replace(tiny, max_steps=2))
    saved = asdict(replace(tiny, max_steps=2))
    names = {
        "pos": "rope",
        "act": "relu2",
        "optimizer": "muon",
        "schedule": "wsd",
        "dtype": "float64",
        "resume": "never",
        "modes": "validate",
        "n_head": 4,
        "tokenizer": "gpt2:400",
        "preset": "a40x8",
        "device": "cpu",
    }

    def another(name, value):
        if name in names:
            return names[name]
        if isinstance(value, bool):
            return not value
        if isinstance(value, (int, float)):
            return value * 2 or 1
        return "x"

    for name, value in saved.items():
        changed = another(name, value)
        assert changed != value
        cfg = TrainConfig(**(saved | {name: changed}))
        if name in MAY_CHANGE:
            continue
        with pytest.raises(ValueError, match=rf"another configuration \({name}: "):
            rundir.open_run(Path(tiny.run_dir), cfg)
    assert MAY_CHANGE < set(saved)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_config_json_holds_the_error_names_it(tmp_path, data):
    good = json.dumps(asdict(TrainConfig()))
    kind = data.draw(st.sampled_from(["bytes", "field", "cut", "json"]))
    if kind == "bytes":
        raw = bytearray(good.encode())
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] = data.draw(st.integers(0, 255))
    elif kind == "field":
        changed = json.loads(good)
        name = data.draw(st.sampled_from(sorted(changed)))
        changed[name] = data.draw(JUNK)
        raw = json.dumps(changed).encode()
    elif kind == "cut":
        raw = good.encode()[: data.draw(st.integers(0, len(good) - 1))]
    else:
        raw = json.dumps(data.draw(JUNK)).encode()
    (tmp_path / "config.json").write_bytes(raw)
    try:
        assert isinstance(rundir.read_config(tmp_path), TrainConfig)
    except ValueError as e:
        assert str(tmp_path / "config.json") in str(e)


def mutated(data, good):
    """Bytes of a good file with some of them changed, or cut off."""
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([len(raw), len(raw), len(raw) // 2]))
    return bytes(raw[:end])


@pytest.fixture(scope="module")
def token_dir(tmp_path_factory):
    dir = tmp_path_factory.mktemp("tokens")
    write_tokens(load_corpus("embedded"), get_tokenizer("gpt2:400"), dir, "train")
    return dir


@settings(max_examples=150)
@given(st.data())
def test_whatever_meta_json_and_the_index_hold_the_error_names_the_file(
    token_dir, data
):
    """Read as a run reads them: how far to read, then a batch."""
    name = data.draw(st.sampled_from(["meta.json", "train.bin.index", "train.bin"]))
    good = (token_dir / name).read_bytes()
    (token_dir / name).write_bytes(mutated(data, good))
    shape = dict(n_lanes=1, rows=1, block_size=8, chunk_size=50, window=50)
    cfg = TrainConfig(max_steps=data.draw(st.integers(1, 30)), **shape)
    try:
        tokens = TokenFile(token_dir, "train")
        n = tokens_needed(cfg, tokens)
        assert 0 < n <= len(tokens)
        tokens[:n]
    except (ValueError, FileNotFoundError) as e:
        assert str(token_dir) in str(e)
    finally:
        (token_dir / name).write_bytes(good)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_line_of_hellaswag_holds_the_error_names_it(tmp_path, data):
    items = load_hellaswag("embedded")[:3]
    kind = data.draw(st.sampled_from(["bytes", "field", "deep"]))
    lines = [json.dumps(i, ensure_ascii=False).encode() for i in items]
    if kind == "bytes":
        lines[1] = mutated(data, lines[1])
    elif kind == "field":
        names = ["label", "endings", "ctx", "ctx_a", "activity_label"]
        name = data.draw(st.sampled_from(names))
        lines[1] = json.dumps(items[1] | {name: data.draw(JUNK)}).encode()
    else:
        lines[1] = b"[" * 100_000
    (tmp_path / "items.jsonl").write_bytes(b"\n".join(lines))
    try:
        found = load_hellaswag(tmp_path / "items.jsonl")
    except ValueError as e:
        assert str(tmp_path / "items.jsonl") in str(e)
    else:  # still items, if others: then they can be scored
        score(GPT(GPTConfig(8, 400, 1, 1, 4)), get_tokenizer("gpt2:400"), found)


def test_a_folder_without_its_configuration_is_named(tiny):
    train(tiny)
    Path(tiny.run_dir, "config.json").unlink()
    for use in (lambda: load_run(tiny.run_dir), lambda: train(tiny)):
        message = "config.json is missing: is .* a run's folder"
        with pytest.raises(FileNotFoundError, match=message):
            use()
