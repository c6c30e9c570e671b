"""What a run costs, against PyTorch's counters, autograd's own tensors and the operating system; two launchers against one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import babygpt.scale as bs
from babygpt.model import GPT, GPTConfig
from babygpt.scale import PEAK_FLOPS, estimate, flops_per_token, mfu, peak_flops
from babygpt.train import PRESETS, TrainConfig

GPT2 = GPTConfig()
MODERN = {"pos": "rope", "act": "relu2", "qk_norm": True}


# --- operations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"block_size": 256}, {"n_layer": 1, "n_head": 1}, {"bias": False}, MODERN])
def test_operations_are_those_that_pytorch_counts(change):
    cfg = replace(GPTConfig(block_size=32, vocab_size=300, n_layer=3, n_head=2, n_embd=48), **change)
    with torch.device("meta"):
        model, x = GPT(cfg), torch.zeros(2, cfg.block_size, dtype=torch.int64)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x, x)[1].backward()
    assert flops_per_token(cfg) * x.numel() == counter.get_total_flops()


def test_the_reference_runs_share_of_its_gpus():
    assert flops_per_token(GPT2) == 854_438_400
    assert mfu(524_288 / 1.599, GPT2, 8 * PEAK_FLOPS["A40"]) == pytest.approx(0.234, abs=5e-4)
    e = estimate(PRESETS["a40x8"], 50_257, 8, PEAK_FLOPS["A40"], mfu=mfu(524_288 / 1.599, GPT2, 8 * PEAK_FLOPS["A40"]))
    assert e.seconds == pytest.approx(15_990) and e.tokens == 5_242_880_000 and e.flops == 5_242_880_000 * 854_438_400


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, dtype, peak",
    [
        ("NVIDIA A40", torch.bfloat16, 149.7e12), ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12), ("NVIDIA A100 80GB PCIe", torch.float16, 312e12),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12), ("NVIDIA H200", torch.bfloat16, 989e12), ("NVIDIA L4", torch.bfloat16, 121e12),
        ("Tesla T4", torch.float16, 65e12), ("Tesla T4", torch.bfloat16, None), ("NVIDIA L40S", torch.bfloat16, None), ("NVIDIA RTX A4000", torch.bfloat16, None),
        ("NVIDIA H100 PCIe", torch.bfloat16, None), ("NVIDIA H100 NVL", torch.bfloat16, None), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", torch.bfloat16, None),
        ("NVIDIA A40", torch.float32, None), ("AMD Instinct MI250X", torch.bfloat16, None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_whole_name(monkeypatch, name, dtype, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops("cuda", dtype) == peak


def test_a_cpus_peak_is_measured():
    began = time.perf_counter()
    assert 1e8 < peak_flops("cpu", torch.float32) < 1e14
    assert time.perf_counter() - began < 10
    assert peak_flops(torch.device("mps")) is None


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("change", [{}, {"pos": "rope"}, {"qk_norm": True}, MODERN, {"n_layer": 1, "bias": False}])
def test_activations_are_what_autograd_keeps(change, dtype):
    cfg = replace(GPTConfig(block_size=640, vocab_size=100, n_layer=3, n_head=2, n_embd=128), **change)  # above 512: fused attention in bfloat16 too
    bf16, w = dtype == torch.bfloat16, 8 if dtype == torch.float64 else 4
    model = GPT(cfg).to(torch.float32 if bf16 else dtype)
    found, own = {}, {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    x = torch.zeros(2, cfg.block_size, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(x, x, return_logits=False)[1]  # noqa: F841, keeps the graph
    weights = {tuple(shape) for p in model.parameters() if p.dim() == 2 for shape in (p.shape, p.shape[::-1])}  # 16-bit copies, and a gradient
    kept = sum(t.untyped_storage().nbytes() for k, t in found.items() if k not in own and t.numel() and tuple(t.shape) not in weights)
    assert bs._kept_per_token(cfg, w, 2 if bf16 else w) == pytest.approx(kept / x.numel(), rel=0.05)


MEASURE = """
import contextlib, json, sys, torch, torch.distributed as dist
from dataclasses import replace
from torch.nn.parallel import DistributedDataParallel
from babygpt.train import GPT, TrainConfig, _optimizer

def status(key):
    return int(open("/proc/self/status").read().split(key + ":")[1].split()[0]) * 1024

def two_steps(cfg, vocab):
    model = GPT(cfg.model_config(vocab))
    ddp, optimizer = DistributedDataParallel(model), _optimizer(model, cfg)
    autocast = (lambda: torch.autocast("cpu", torch.bfloat16)) if cfg.dtype == "bfloat16" else contextlib.nullcontext
    for _ in range(2):
        optimizer.zero_grad()
        for x in torch.randint(vocab, (cfg.n_lanes * cfg.rows // 2, cfg.block_size)).split(cfg.micro_batch):
            with autocast():
                loss = ddp(x, x, return_logits=False)[1]
            loss.backward()
        optimizer.step()

cfg, vocab = TrainConfig(**json.loads(sys.argv[1])), int(sys.argv[2])
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
two_steps(replace(cfg, n_layer=1, n_head=1, n_embd=16, block_size=8), 50)  # libraries come in
before = status("VmRSS")
two_steps(cfg, vocab)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts it")
@pytest.mark.parametrize(
    "vocab, change",
    [
        (32_768, {"pos": "learned", "act": "gelu", "qk_norm": False}),  # logits in two pieces
        (8192, {"pos": "learned", "act": "gelu", "qk_norm": False, "dtype": "bfloat16", "n_embd": 256}),
        (1000, {"n_layer": 8, "micro_batch": 16, "rows": 32}),  # activations
        (1000, {"n_layer": 8, "n_embd": 512, "micro_batch": 2, "rows": 4}),  # parameters
    ],
    ids=["logits", "bfloat16", "activations", "parameters"],
)
def test_memory_is_what_the_system_counts(vocab, change):
    cfg = replace(TrainConfig(n_layer=4, n_head=4, n_embd=128, block_size=128, n_lanes=2, rows=32, micro_batch=16), **change)
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE, json.dumps(asdict(cfg)), str(vocab)], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    ours = sum(estimate(cfg, vocab, 2, None).memory.values())
    assert int(done.stdout) == pytest.approx(ours, rel=0.25)


def test_parts_of_the_memory():
    cfg, n = PRESETS["a40x8"], 124_439_808
    alone, many = (estimate(cfg, 50_257, world, None).memory for world in (1, 8))
    assert many["weights"] == many["gradients"] == many["DDP's buckets"] == 4 * n and many["AdamW's moments"] == 8 * n
    assert alone["DDP's buckets"] == 0 and alone["activations"] == many["activations"]  # micro_batch is what counts
    assert 2**25 * 10 <= many["loss"] < 1e9  # not 32 · 1024 · 50,257 · 14 bytes
    double = estimate(replace(cfg, dtype="float64"), 50_257, 8, None).memory
    assert double["weights"] == 8 * n and double["16-bit copies"] == 0 and double["activations"] > many["activations"]


@pytest.mark.parametrize("world, rows, micro_batch", [(1, 4, 8), (2, 4, 3), (4, 5, 4), (4, 1, 8), (1, 3, 5)])
def test_rows_at_once_are_those_of_training(monkeypatch, world, rows, micro_batch):
    import babygpt.train as bt

    seen = []

    class Seen(torch.nn.Module):
        def forward(self, x, y, **kw):
            seen.append(len(x))
            return None, torch.zeros((), requires_grad=True)

    cfg = TrainConfig(n_lanes=4, rows=rows, micro_batch=micro_batch)
    x = torch.zeros(cfg.n_lanes // world * rows, 8)
    bt._accumulate(Seen(), x, x, micro_batch)
    assert set(seen) == {bs._rows_at_once(cfg, world)}
    assert bs._rows_at_once(replace(cfg, micro_batch="auto"), world) == len(x)


def test_estimates_that_cannot_be():
    with pytest.raises(ValueError, match="16 processes cannot share 8 lanes"):
        estimate(PRESETS["a40x8"], 50_257, 16, 1e12)
    for share in (0, -0.1, 40):
        with pytest.raises(ValueError, match="mfu"):
            estimate(PRESETS["laptop"], 2048, 1, 1e12, mfu=share)


def test_an_estimate_reads_as_a_table():
    table = str(estimate(PRESETS["a40x8"], 50_257, 8, PEAK_FLOPS["A40"]))
    assert "14.40 GB" in table and "2.6 h" in table and "5,242,880,000" in table
    small = str(estimate(PRESETS["laptop"], 2048, 1, None))
    assert " MB" in small and "not known" in small and "DDP" not in small
    assert "min" in str(estimate(PRESETS["laptop"], 2048, 1, 1e12))


# --- two launchers ---------------------------------------------------------------------------------------------------


SMALL = (
    "--corpus embedded --tokenizer bpe:400 --n_layer 2 --n_head 2 --n_embd 32 --block_size 32 --n_lanes 4 --rows 2 --chunk_size 500 --window 400"
    " --warmup_steps 2 --val_every 3 --val_tokens 2000 --sample_every 0 --checkpoint_every 2 --modes train,validate"
).split()


def torchrun(dir, run, launcher, max_steps=6):
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "babygpt.train", *SMALL, "--max_steps", str(max_steps)]
    command += ["--run_dir", str(dir / run), "--data_dir", str(dir / "data")]
    with open(dir / f"{run}.log", "a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)


def meeting():
    "A launcher's flags: two launchers of one process each, on a free port."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}", f"--rdzv_id=r{port}", "--local_addr=localhost"]


def test_two_launchers_train_the_weights_of_one_to_the_bit(tmp_path):
    jobs = [torchrun(tmp_path, "one", ["--standalone", "--nproc_per_node=2"])]
    assert jobs[0].wait(120) == 0, (tmp_path / "one.log").read_text()
    meet = meeting()
    jobs = [torchrun(tmp_path, "two", meet) for _ in range(2)]
    assert [job.wait(120) for job in jobs] == [0, 0], (tmp_path / "two.log").read_text()
    one, two = ((tmp_path / run / "checkpoints/step_000006/model.safetensors").read_bytes() for run in ("one", "two"))
    assert one == two


def processes_of(run_dir):
    return [p for p in Path("/proc").glob("[0-9]*") if f"{run_dir}\0".encode() in (p / "cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc")
def test_all_leave_when_a_launcher_is_killed(tmp_path):
    meet = meeting()
    jobs = [torchrun(tmp_path, "run", meet, max_steps=100_000) for _ in range(2)]
    try:
        end = time.monotonic() + 120
        while not list((tmp_path / "run").glob("checkpoints/step_*")) and time.monotonic() < end:
            time.sleep(0.2)
        assert len(processes_of(tmp_path / "run")) == 4, (tmp_path / "run.log").read_text()
        jobs[0].kill()
        while (left := processes_of(tmp_path / "run")) and time.monotonic() < end:
            jobs[0].poll(), jobs[1].poll()
            time.sleep(0.2)
        assert not left and jobs[1].wait(10) != 0
    finally:
        for p in processes_of(tmp_path / "run"):
            os.kill(int(p.name), signal.SIGKILL)
