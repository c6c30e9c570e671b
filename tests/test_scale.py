"""What a run costs, against PyTorch's counters, autograd's tensors and the operating
system; two launchers against one."""

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
from conftest import ROOT, free_port
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import babygpt.scale as bs
from babygpt.model import GPT, GPTConfig
from babygpt.scale import PEAK_FLOPS, estimate, flops_per_token, mfu, peak_flops
from babygpt.train import PRESETS, TrainConfig

GPT2 = GPTConfig()
MODERN = {"pos": "rope", "act": "relu2", "qk_norm": True}
PLAIN = {"pos": "learned", "act": "gelu", "qk_norm": False}


# --- operations


@pytest.mark.parametrize(
    "change",
    [{}, {"block_size": 256}, {"n_layer": 1, "n_head": 1}, {"bias": False}, MODERN],
)
def test_operations_are_those_that_pytorch_counts(change):
    shape = dict(block_size=32, vocab_size=300, n_layer=3, n_head=2, n_embd=48)
    cfg = GPTConfig(**(shape | change))
    with torch.device("meta"):
        model, x = GPT(cfg), torch.zeros(2, cfg.block_size, dtype=torch.int64)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(x, x)[1].backward()
    assert flops_per_token(cfg) * x.numel() == counter.get_total_flops()


def test_the_reference_runs_share_of_its_gpus():
    assert flops_per_token(GPT2) == 854_438_400
    share = mfu(524_288 / 1.599, GPT2, 8 * PEAK_FLOPS["A40"])
    assert share == pytest.approx(0.234, abs=5e-4)
    e = estimate(PRESETS["a40x8"], 50_257, 8, PEAK_FLOPS["A40"], mfu=share)
    assert e.seconds == pytest.approx(15_990) and e.tokens == 5_242_880_000
    assert e.flops == 5_242_880_000 * 854_438_400


# --- devices


BF16, FP16 = torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    "name, dtype, peak",
    [
        ("NVIDIA A40", BF16, 149.7e12),
        ("NVIDIA A100-SXM4-80GB", BF16, 312e12),
        ("NVIDIA A100 80GB PCIe", FP16, 312e12),
        ("NVIDIA H100 80GB HBM3", BF16, 989e12),
        ("NVIDIA H200", BF16, 989e12),
        ("NVIDIA L4", BF16, 121e12),
        ("Tesla T4", FP16, 65e12),
        ("Tesla T4", BF16, None),
        ("NVIDIA L40S", BF16, None),
        ("NVIDIA RTX A4000", BF16, None),
        ("NVIDIA H100 PCIe", BF16, None),
        ("NVIDIA H100 NVL", BF16, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", BF16, None),
        ("NVIDIA A40", torch.float32, None),
        ("AMD Instinct MI250X", BF16, None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(monkeypatch, name, dtype, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops("cuda", dtype) == peak


def test_a_cpus_peak_is_measured():
    began = time.perf_counter()
    assert 1e8 < peak_flops("cpu", torch.float32) < 1e14
    assert time.perf_counter() - began < 10
    assert peak_flops(torch.device("mps")) is None


# --- memory


def place(tensor):
    """Where a tensor's numbers begin."""
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "change",
    [{}, {"pos": "rope"}, {"qk_norm": True}, MODERN, {"n_layer": 1, "bias": False}],
)
def test_activations_are_what_autograd_keeps(change, dtype):
    # a block above 512: fused attention in bfloat16 too
    shape = dict(block_size=640, vocab_size=100, n_layer=3, n_head=2, n_embd=128)
    cfg = GPTConfig(**(shape | change))
    bf16 = dtype == torch.bfloat16
    width = 8 if dtype == torch.float64 else 4
    model = GPT(cfg).to(torch.float32 if bf16 else dtype)
    own = {place(t) for t in (*model.parameters(), *model.buffers())}
    # 16-bit copies of the weights, and a gradient
    matrices = [p.shape for p in model.parameters() if p.dim() == 2]
    weights = {*matrices, *(shape[::-1] for shape in matrices)}

    found = {}  # one tensor of every storage that autograd keeps

    def note(tensor):
        return found.setdefault(place(tensor), tensor)

    x = torch.zeros(2, cfg.block_size, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(x, x, return_logits=False)[1]
    kept = 0
    for at, tensor in found.items():
        if at not in own and tensor.numel() and tensor.shape not in weights:
            kept += tensor.untyped_storage().nbytes()
    assert loss.requires_grad  # the graph is still there
    expected = pytest.approx(kept / x.numel(), rel=0.05)
    assert bs._kept_per_token(cfg, width, 2 if bf16 else width) == expected


MEASURE = """
import json, sys, torch, torch.distributed as dist
from dataclasses import replace
from torch.nn.parallel import DistributedDataParallel
from babygpt.train import GPT, TrainConfig, make_optimizer

def status(key):
    return int(open("/proc/self/status").read().split(key + ":")[1].split()[0]) * 1024

def two_steps(cfg, vocab):
    model = GPT(cfg.model_config(vocab))
    ddp, optimizer = DistributedDataParallel(model), make_optimizer(model, cfg)
    bf16, n_rows = cfg.dtype == "bfloat16", cfg.n_lanes * cfg.rows // 2
    for _ in range(2):
        optimizer.zero_grad()
        batch = torch.randint(vocab, (n_rows, cfg.block_size))
        for x in batch.split(cfg.micro_batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = ddp(x, x, return_logits=False)[1]
            loss.backward()
        optimizer.step()

cfg, vocab = TrainConfig(**json.loads(sys.argv[1])), int(sys.argv[2])
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
# libraries come in with a small model
two_steps(replace(cfg, n_layer=1, n_head=1, n_embd=16, block_size=8), 50)
before = status("VmRSS")
two_steps(cfg, vocab)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts it")
@pytest.mark.parametrize(
    "vocab, change",
    [
        (32_768, PLAIN),  # logits in two pieces
        (8192, {**PLAIN, "dtype": "bfloat16", "n_embd": 256}),
        (1000, {"n_layer": 8, "micro_batch": 16, "rows": 32}),
        (1000, {"n_layer": 8, "n_embd": 512, "micro_batch": 2, "rows": 4}),
    ],
    ids=["logits", "bfloat16", "activations", "parameters"],
)
def test_memory_is_what_the_system_counts(vocab, change):
    shape = dict(n_layer=4, n_head=4, n_embd=128, block_size=128)
    batch = dict(n_lanes=2, rows=32, micro_batch=16)
    cfg = TrainConfig(**(shape | batch | change))
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(asdict(cfg)), str(vocab)],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    ours = sum(estimate(cfg, vocab, 2, None).memory.values())
    assert int(done.stdout) == pytest.approx(ours, rel=0.25)


def test_parts_of_the_memory():
    cfg, n = PRESETS["a40x8"], 124_439_808
    alone, many = (estimate(cfg, 50_257, world, None).memory for world in (1, 8))
    assert many["weights"] == many["gradients"] == many["DDP's buckets"] == 4 * n
    assert many["AdamW's moments"] == 8 * n
    assert alone["DDP's buckets"] == 0
    assert alone["activations"] == many["activations"]  # micro_batch is what counts
    assert 2**25 * 10 <= many["loss"] < 1e9  # not 32 · 1024 · 50,257 · 14 bytes
    double = estimate(replace(cfg, dtype="float64"), 50_257, 8, None).memory
    assert double["weights"] == 8 * n and double["16-bit copies"] == 0
    assert double["activations"] > many["activations"]


@pytest.mark.parametrize(
    "world, rows, micro_batch", [(1, 4, 8), (2, 4, 3), (4, 5, 4), (4, 1, 8), (1, 3, 5)]
)
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
    assert "14.34 GB" in table and "2.6 h" in table and "5,242,880,000" in table
    small = str(estimate(PRESETS["laptop"], 2048, 1, None))
    assert " MB" in small and "not known" in small and "DDP" not in small
    assert "min" in str(estimate(PRESETS["laptop"], 2048, 1, 1e12))


# --- two launchers


SMALL = """
    --corpus embedded --tokenizer bpe:400 --chunk_size 500 --window 400
    --n_layer 2 --n_head 2 --n_embd 32 --block_size 32 --n_lanes 4 --rows 2
    --warmup_steps 2 --val_every 3 --val_tokens 2000 --sample_every 0
    --checkpoint_every 2 --modes train,validate
""".split()


def torchrun(dir, run, launcher, max_steps=6):
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}
    command = [sys.executable, "-m", "torch.distributed.run", *launcher]
    command += ["-m", "babygpt.train", *SMALL, "--max_steps", str(max_steps)]
    command += ["--run_dir", str(dir / run), "--data_dir", str(dir / "data")]
    with open(dir / f"{run}.log", "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )


def meeting():
    """A launcher's flags: two launchers of one process each, on a free port."""
    port = free_port()
    return [
        "--nnodes=2",
        "--nproc_per_node=1",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint=localhost:{port}",
        f"--rdzv_id=r{port}",
        "--local_addr=localhost",
    ]


def test_two_launchers_train_the_weights_of_one_to_the_bit(tmp_path):
    jobs = [torchrun(tmp_path, "one", ["--standalone", "--nproc_per_node=2"])]
    assert jobs[0].wait(120) == 0, (tmp_path / "one.log").read_text()
    meet = meeting()
    jobs = [torchrun(tmp_path, "two", meet) for _ in range(2)]
    assert [job.wait(120) for job in jobs] == [0, 0], (tmp_path / "two.log").read_text()
    model = "checkpoints/step_000006/model.safetensors"
    one = (tmp_path / "one" / model).read_bytes()
    assert one == (tmp_path / "two" / model).read_bytes()


def processes_of(run_dir):
    word = f"{run_dir}\0".encode()
    processes = Path("/proc").glob("[0-9]*")
    return [p for p in processes if word in (p / "cmdline").read_bytes()]


@pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc"
)
def test_all_leave_when_a_launcher_is_killed(tmp_path):
    meet, run = meeting(), tmp_path / "run"
    jobs = [torchrun(tmp_path, "run", meet, max_steps=100_000) for _ in range(2)]
    try:
        end = time.monotonic() + 120
        while not list(run.glob("checkpoints/step_*")) and time.monotonic() < end:
            time.sleep(0.2)
        log = (tmp_path / "run.log").read_text()
        assert len(processes_of(run)) == 4, log
        jobs[0].kill()
        while processes_of(run) and time.monotonic() < end:
            for job in jobs:
                job.poll()
            time.sleep(0.2)
        assert not processes_of(run) and jobs[1].wait(10) != 0
    finally:
        for p in processes_of(run):
            os.kill(int(p.name), signal.SIGKILL)
