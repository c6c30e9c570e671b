import json
import os
import subprocess
import sys
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

ROOT = Path(__file__).parent.parent

# The same examples on every machine, however slow: a red test means a change, not the luck of the draw.
settings.register_profile("babygpt", deadline=None, derandomize=True)
settings.load_profile("babygpt")


def python(*args, **kw) -> subprocess.CompletedProcess:
    """Run this Python in a process of its own, from the repository's root; its output is in `.stdout`."""
    env = {**os.environ, **kw.pop("env", {})}
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw)


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
