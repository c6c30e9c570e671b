import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from minihub import Hub
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from babygpt.corpus import load_corpus, load_parallel
from babygpt.hellaswag import load_hellaswag
from babygpt.tokenizer import get_tokenizer
from babygpt.train import TrainConfig

ROOT = Path(__file__).parent.parent
# Without the copies that JupyterLab leaves in hidden folders.
NOTEBOOKS = sorted(p for p in ROOT.glob("nbs/**/*.ipynb") if p.parent.name[0] != ".")
# A client's environment in which no Hub answers.
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
CARD = """---
configs:
- config_name: pol_Latn
  data_files:
  - split: train
    path: data/pol_Latn/train/*
  - split: test
    path: data/pol_Latn/test/*
---
"""

# A run of seconds.
TINY = dict(
    corpus="embedded",
    hellaswag="embedded",
    tokenizer="bpe:400",
    chunk_size=500,
    window=400,
    pos="learned",
    act="gelu",
    qk_norm=False,
    n_layer=2,
    n_head=2,
    n_embd=32,
    block_size=32,
    n_lanes=4,
    rows=2,
    micro_batch=8,
    max_steps=6,
    warmup_steps=2,
    lr=1e-2,
    min_lr=1e-3,
    val_every=3,
    val_tokens=2_000,
    hellaswag_every=0,
    sample_every=0,
    checkpoint_every=2,
    modes="train,validate",
    nproc=1,
)

# The same examples on every machine, however slow: a red test means a change, not the
# luck of the draw.
settings.register_profile("babygpt", deadline=None, derandomize=True)
settings.load_profile("babygpt")


def python(*args, **kw) -> subprocess.CompletedProcess:
    """Run this Python in a process of its own, from the repository's root.

    What it prints and its errors are in `.stdout`.
    """
    env = {**os.environ, **kw.pop("env", {})}
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kw,
    )


def write_jsonl(path: Path, rows) -> None:
    """One JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def command(cfg: TrainConfig) -> list[str]:
    """The command line of a run."""
    default = TrainConfig()
    words = [sys.executable, "-m", "babygpt.train"]
    for name, value in asdict(cfg).items():
        if value is not None and value != getattr(default, name):
            words += [f"--{name}", str(value)]
    return words


def wait_for(condition, *processes: subprocess.Popen, seconds: float = 120) -> None:
    """Until the condition holds; fails where a process ends before or time is up."""
    deadline = time.time() + seconds
    while not condition():
        for p in processes:
            if p.poll() is not None:
                said = p.stdout.read() if p.stdout else f"ended with {p.returncode}"
                raise AssertionError(said)
        assert time.time() < deadline, "too late"
        time.sleep(0.01)


def checkpoint(run_dir, step: int) -> Path:
    """Where a run keeps its checkpoint of that step."""
    return Path(run_dir, "checkpoints", f"step_{step:06d}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch_workers(worker, nproc: int, *args):
    """PyTorch's elastic launcher on a worker of a test's own, without restarts."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=worker.__name__,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.2,
    )
    return elastic_launch(config, worker)(*args)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Where tiny runs keep their tokens: prepared once."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(data, tmp_path):
    """A run of seconds that does everything.

    It has 4 lanes · 2 rows, so 1, 2 and 4 processes can share it.
    """
    return TrainConfig(**TINY, run_dir=str(tmp_path / "run"), data_dir=data)


@pytest.fixture(scope="session")
def gpt2():
    return get_tokenizer("gpt2")


@pytest.fixture(scope="session")
def polish() -> list[str]:
    """The embedded Polish texts, training and test."""
    return [p.pl for p in load_parallel()]


@pytest.fixture(scope="session")
def hub(tmp_path_factory, polish):
    """FineWeb-2 and HellaSwagX in small, in their layout, on a Hub of our own."""
    root = tmp_path_factory.mktemp("hub")
    data = root / "HuggingFaceFW/fineweb-2/data/pol_Latn"
    rng = np.random.default_rng(0)
    for split, n_files, n_rows in (("train", 3, 2000), ("test", 1, 100)):
        (data / split).mkdir(parents=True)
        for i in range(n_files):
            # Real sentences, then letters that do not compress: the files must be
            # large for a test of what is downloaded.
            texts, ids = [], []
            for j in range(n_rows):
                texts.append(f"{polish[j % len(polish)]}\n{rng.bytes(1000).hex()}")
                ids.append(f"{split}-{i}-{j}")
            pq.write_table(
                pa.table({"text": texts, "id": ids}),
                data / split / f"000_{i:05}.parquet",
                row_group_size=200,
            )
    (root / "HuggingFaceFW/fineweb-2/README.md").write_text(CARD)
    hellaswagx = root / "openGPT-X/hellaswagx"
    hellaswagx.mkdir(parents=True)
    write_jsonl(
        hellaswagx / "hellaswag_PL_validation.jsonl", load_hellaswag("embedded")[:12]
    )
    with Hub(root, tmp_path_factory.mktemp("home")) as hub:
        yield hub


@pytest.fixture(scope="session")
def embedded():
    return load_corpus("embedded")
