import json
import os
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

from babygpt.corpus import load_corpus, load_parallel
from babygpt.hellaswag import load_hellaswag
from babygpt.tokenizer import get_tokenizer
from babygpt.train import TrainConfig

ROOT = Path(__file__).parent.parent

# The same examples on every machine, however slow: a red test means a change, not the luck of the draw.
settings.register_profile("babygpt", deadline=None, derandomize=True)
settings.load_profile("babygpt")


def python(*args, **kw) -> subprocess.CompletedProcess:
    """Run this Python in a process of its own, from the repository's root; its output is in `.stdout`."""
    env = {**os.environ, **kw.pop("env", {})}
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)


def command(cfg: TrainConfig) -> list[str]:
    """The command line of a run."""
    given = {k: v for k, v in asdict(cfg).items() if v is not None and v != getattr(TrainConfig(), k)}
    return [sys.executable, "-m", "babygpt.train", *(str(a) for k, v in given.items() for a in (f"--{k}", v))]


def wait_for(condition, *processes: subprocess.Popen, seconds: float = 120) -> None:
    """Until the condition holds; fails where a process ends before, or with the time."""
    deadline = time.time() + seconds
    while not condition():
        for p in processes:
            assert p.poll() is None, p.stdout.read() if p.stdout else f"ended with {p.returncode}"
        assert time.time() < deadline, "too late"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Where tiny runs keep their tokens: prepared once."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(data, tmp_path):
    """A run of seconds that does everything: 4 lanes · 2 rows, so 1, 2 and 4 processes can share it."""
    return TrainConfig(
        corpus="embedded", hellaswag="embedded", pos="learned", act="gelu", qk_norm=False,
        tokenizer="bpe:400", n_layer=2, n_head=2, n_embd=32, block_size=32, n_lanes=4, rows=2, micro_batch=8, chunk_size=500, window=400,
        max_steps=6, warmup_steps=2, lr=1e-2, min_lr=1e-3, val_every=3, val_tokens=2_000, hellaswag_every=0, sample_every=0, checkpoint_every=2,
        modes="train,validate", nproc=1, run_dir=str(tmp_path / "run"), data_dir=data,
    )  # fmt: skip


@pytest.fixture(scope="session")
def gpt2():
    return get_tokenizer("gpt2")


@pytest.fixture(scope="session")
def polish() -> list[str]:
    """The embedded Polish texts, training and test."""
    return [p.pl for p in load_parallel()]


@pytest.fixture(scope="session")
def hub(tmp_path_factory, polish):
    """FineWeb-2 and HellaSwagX in small, in the layout of the real ones, on a Hub of our own."""
    root = tmp_path_factory.mktemp("hub")
    data = root / "HuggingFaceFW/fineweb-2/data/pol_Latn"
    rng = np.random.default_rng(0)
    for split, n_files, n_rows in (("train", 3, 2000), ("test", 1, 100)):
        (data / split).mkdir(parents=True)
        for i in range(n_files):
            # real sentences, then letters that do not compress: the files must be large for a test of what is downloaded
            texts = [f"{polish[j % len(polish)]}\n{rng.bytes(1000).hex()}" for j in range(n_rows)]
            ids = [f"{split}-{i}-{j}" for j in range(n_rows)]
            pq.write_table(pa.table({"text": texts, "id": ids}), data / split / f"000_{i:05}.parquet", row_group_size=200)
    card = "---\nconfigs:\n- config_name: pol_Latn\n  data_files:\n"
    card += "".join(f"  - split: {s}\n    path: data/pol_Latn/{s}/*\n" for s in ("train", "test")) + "---\n"
    (root / "HuggingFaceFW/fineweb-2/README.md").write_text(card)
    (root / "openGPT-X/hellaswagx").mkdir(parents=True)
    items = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in load_hellaswag("embedded")[:12])
    (root / "openGPT-X/hellaswagx/hellaswag_PL_validation.jsonl").write_text(items, encoding="utf-8")
    with Hub(root, tmp_path_factory.mktemp("home")) as hub:
        yield hub


@pytest.fixture(scope="session")
def embedded():
    return load_corpus("embedded")
