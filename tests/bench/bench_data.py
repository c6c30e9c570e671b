"""From documents to batches: token files against datasets, datatrove and bare tiktoken;
chunks; lanes against a sampler and nanoGPT's slices."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tiktoken
import torch
from datasets import Dataset
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.utils.logging import logger
from side_by_side import Case, seconds
from torch.utils.data import DataLoader, Sampler

from babygpt.chunk import TokenFile, find_chunks, write_tokens
from babygpt.corpus import load_corpus
from babygpt.model import GPT, GPTConfig
from babygpt.shuffle import Lanes, shuffle_chunks
from babygpt.tokenizer import get_tokenizer, save_tokenizer

CORES = os.cpu_count()


def documents() -> list[dict]:
    """14 MB of Polish: stories, and between them the embedded documents over and over,
    which have more words."""
    others, docs = list(load_corpus("embedded")), []
    for i, story in enumerate(load_corpus("bajki", limit_bytes=6_000_000)):
        docs += [story, others[i % len(others)]]
    return docs


# --- tokens


def by_datasets(docs: Dataset, enc: tiktoken.Encoding) -> Dataset:
    """nanoGPT's way, in batches: ids with end-of-text, by as many processes as there
    are cores. (Not yet in a .bin.)"""

    def encode(batch):
        ids = [[*enc.encode_ordinary(t), enc.eot_token] for t in batch["text"]]
        return {"ids": ids}

    return docs.map(
        encode,
        batched=True,
        remove_columns=docs.column_names,
        num_proc=CORES,
        load_from_cache_file=False,
        new_fingerprint="bench",
    )


def by_datatrove(docs: list[Document], tokenizer: str, out: str) -> Path:
    """The same file as ours, by threads of `tokenizers`."""
    DocumentTokenizer(
        out,
        tokenizer,
        eos_token="<|endoftext|>",
        shuffle_documents=False,
        save_final_metadata=False,
    ).run(docs)
    return next(Path(out).glob("*.ds"))


def by_loops(texts: list[str], enc: tiktoken.Encoding) -> None:
    """A bare loop over its share of the texts in each of as many processes as there are
    cores, that neither wait for one another nor keep what they made."""

    def encode(share):
        return [enc.encode_ordinary(text) for text in share]

    fork, workers = multiprocessing.get_context("fork"), []
    for i in range(CORES):
        workers.append(fork.Process(target=encode, args=(texts[i::CORES],)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def tokens(dir: str) -> Iterator[Case]:
    logger.disable("datatrove")
    enc, docs = get_tokenizer("gpt2"), documents()
    save_tokenizer(enc, f"{dir}/tokenizer")
    texts = [doc["text"] for doc in docs]
    table = Dataset.from_dict({"text": texts})
    theirs = [Document(text=t, id=str(i)) for i, t in enumerate(texts)]
    mb = sum(len(t.encode()) for t in texts) / 1e6
    # a list has no id: every call writes anew
    ours = partial(write_tokens, docs, enc, f"{dir}/ours", "train")
    trove = partial(
        by_datatrove, theirs, f"{dir}/tokenizer/tokenizer.json", f"{dir}/trove"
    )
    ids, equal = ours().tokens, {True: "ids equal", False: "ids DIFFER"}
    column = by_datasets(table, enc).data.column("ids")
    same = np.array_equal(column.combine_chunks().flatten(), ids)
    what = f"tokenise {mb:.0f} MB into a token file"
    yield Case(
        what,
        f"datasets.map, {CORES} processes",
        ours,
        partial(by_datasets, table, enc),
        mb,
        "MB/s",
        1.3,
        f"{equal[same]}; theirs end in Arrow",
    )
    same = trove().read_bytes() == ids.tobytes()
    name = "datatrove DocumentTokenizer"
    yield Case(what, name, ours, trove, mb, "MB/s", 1.3, equal[same])
    batch = partial(enc.encode_ordinary_batch, texts, num_threads=CORES)
    flat = []
    for document in batch():
        flat += [*document, enc.eot_token]
    same = flat == ids.tolist()
    yield Case(
        what,
        f"tiktoken, {CORES} threads, ids only",
        ours,
        batch,
        mb,
        "MB/s",
        0.9,
        equal[same],
    )
    yield Case(
        what,
        f"tiktoken in a bare loop · {CORES} cores",
        ours,
        partial(by_loops, texts, enc),
        mb,
        "MB/s",
        0.9,
        "their ids are thrown away",
    )


# --- chunks


def plant(path: str, n: int, size: int, eot: int, window: int) -> np.ndarray:
    """A file of `n` uint16 ids, all holes but for documents around the cuts, with
    lengths like the web's; the ends of its chunks."""
    rng, cuts = np.random.default_rng(0), [0]
    with open(path, "wb") as f:
        f.truncate(2 * n)
        while cuts[-1] + size < n:
            cursor = cuts[-1] + size
            first = cursor - 2 * window
            lengths = np.exp(rng.normal(np.log(500), 1.5, size=1_000))
            lengths = 1 + lengths.clip(max=window - 1).astype(int)
            ends = first + np.cumsum(lengths)
            ids = np.ones(4 * window, dtype="<u2")
            ids[ends[ends <= first + 4 * window] - 1 - first] = eot
            f.seek(2 * first)
            f.write(ids.tobytes())
            cuts.append(int(ends[np.abs(ends - cursor).argmin()]))
    return np.array([*cuts[1:], n])


def forget(path: str) -> None:
    """Have the kernel drop its copy of the file's pages: the next to read them finds
    them cold."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def by_seeking(path: str, n: int, size: int, eot: int, window: int) -> list[int]:
    """The same cuts without a memory map: seek to each window, read it, take the
    nearest end."""
    ends = [0]
    with open(path, "rb", buffering=0) as f:
        while ends[-1] + size < n:
            cursor = ends[-1] + size
            f.seek(2 * (cursor - window - 1))
            ids = np.frombuffer(f.read(4 * window + 2), "<u2")
            hits = np.flatnonzero(ids == eot) + cursor - window
            ends.append(int(hits[np.abs(hits - cursor).argmin()]))
    return [*ends[1:], n]


def chunks(dir: str) -> Iterator[Case]:
    path, n, eot, window = f"{dir}/sparse.bin", 10_000_000_000, 50_256, 20_000
    size = n * 2 // 1201  # 600 cuts, and half a chunk
    right = plant(path, n, size, eot, window)

    def cold(find):
        forget(path)
        return find()

    def ours():
        return find_chunks(np.memmap(path, "<u2", "r"), size, eot, window)[:, 1]

    theirs = partial(by_seeking, path, n, size, eot, window)
    equal = np.array_equal(cold(ours), right) and np.array_equal(cold(theirs), right)
    took = []
    for _ in range(5):
        forget(path)
        took.append(seconds(ours))
    time = f"{min(took) * 1e3:.0f} to {max(took) * 1e3:.0f} ms"
    note = f"{time} without the time to drop its pages (wanted: 100); "
    note += f"cuts {'equal' if equal else 'DIFFER'}"
    yield Case(
        f"find {len(right)} chunks of 20 GB, cold",
        "seek to each window, read it",
        partial(cold, ours),
        partial(cold, theirs),
        1,
        "files/s",
        1.0,
        note,
    )


# --- batches


class EveryToken(Sampler):
    """The reference run's way: the index of every token of every chunk, one after the
    other."""

    def __init__(self, chunks: np.ndarray):
        self.chunks = chunks

    def __iter__(self):
        epoch = 0
        while True:
            for start, end in shuffle_chunks(self.chunks, 0, epoch):
                yield from range(int(start), int(end))
            epoch += 1


class Pairs(torch.utils.data.Dataset):
    """A token and the one to predict."""

    def __init__(self, tokens: torch.Tensor):
        self.tokens = tokens

    def __getitem__(self, i):
        return self.tokens[i], self.tokens[i + 1]


def random_slices(
    path: Path, rows: int, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As nanoGPT: rows from anywhere; the file is mapped anew, lest memory grow."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    at = torch.randint(len(data) - block_size, (rows,))

    def slices(shift):
        found = [data[i + shift : i + shift + block_size].astype(np.int64) for i in at]
        return torch.stack([torch.from_numpy(row) for row in found])

    return slices(0), slices(1)


def each(batch: Callable[[int], object], n: int) -> None:
    """`n` batches one after the other, none of them kept: as in training."""
    for step in range(n):
        batch(step)


def each_slice(path: Path, rows: int, block_size: int, n: int) -> None:
    """`n` batches of nanoGPT's, as above."""
    for _ in range(n):
        random_slices(path, rows, block_size)


def batches(tf: TokenFile) -> Iterator[Case]:
    # the last token of the file has nothing to predict
    cut = find_chunks(tf.tokens, 100_000, tf.eot)[:-1]
    lanes = {r: Lanes(tf, cut, rows=r, block_size=1024, seed=0) for r in (8, 1)}
    what = "batches of 8 lanes, {} × 1,024"
    pairs = Pairs(torch.from_numpy(tf.tokens.astype(np.int64)))
    n = lanes[8].tokens_per_step
    loader = iter(DataLoader(pairs, batch_size=n, sampler=EveryToken(cut)))
    for ours, theirs in zip(lanes[8].batch(0, [0]), next(loader)):
        assert torch.equal(ours.flatten(), theirs[: ours.numel()])

    def sampler(step):
        return next(loader)

    def single(batch, n):
        return np.median([seconds(partial(batch, step)) for step in range(n)])

    ours, theirs = single(lanes[8].batch, 100), single(sampler, 3)
    times = f"{ours * 1e3:.2f} ms and {theirs * 1e3:,.0f} ms: {theirs / ours:,.0f}"
    note = f"median of single batches {times}; both begin with the same numbers"
    yield Case(
        what.format(8),
        "DataLoader, a token at a time",
        partial(each, lanes[8].batch, 8),
        partial(each, sampler, 8),
        8,
        "batches/s",
        1000,
        note,
        often=200,
    )
    for rows, n in ((8, 160), (1, 1280)):
        yield Case(
            what.format(rows),
            "nanoGPT, random slices",
            partial(each, lanes[rows].batch, n),
            partial(each_slice, tf.path, 8 * rows, 1024, n),
            n,
            "batches/s",
            1.0,
        )


def data_wait(tf: TokenFile) -> Iterator[Case]:
    """A step is forward, backward and AdamW; a ratio of 100 is a share of 1 %."""
    torch.manual_seed(0)
    model = GPT(GPTConfig())
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    cut = find_chunks(tf.tokens, 100_000, tf.eot)
    lanes = Lanes(tf, cut, n_lanes=2, rows=1, block_size=256, seed=0)

    def step():
        optimizer.zero_grad()
        model(*lanes.batch(0))[1].backward()
        optimizer.step()

    ours = partial(lanes.batch, 1)
    of_batch = np.median([seconds(ours) for _ in range(100)])
    share = of_batch / min(seconds(step) for _ in range(2))
    note = f"{share:.4%} of a step is waiting for data (wanted: below 1 %)"
    yield Case(
        "a batch of 2 × 256",
        "the whole training step with it, 124M",
        ours,
        step,
        1,
        "a second",
        100,
        note,
    )


def cases() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as dir:
        yield from tokens(dir)
        tf = TokenFile(f"{dir}/ours", "train")
        yield from batches(tf)
        yield from data_wait(tf)
        del tf
        yield from chunks(dir)
