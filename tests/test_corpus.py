import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import NO_HUB, python

from babygpt.corpus import hold_out, load_corpus, load_parallel

NO_OBJECT = r"bad.jsonl, line 2: expected a JSON object"
NO_PARQUET = r"bad.parquet: not a whole parquet file"
TEXTS = ["Zażółć gęślą jaźń.", "Ala ma kota,\na kot ma Alę.", "Śpi."]


def write(folder, kind):
    path = folder / f"docs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3]}), path)
        return path
    if "json" in kind:
        lines = [json.dumps({"text": t}) for t in TEXTS]
    else:
        lines = [t.replace("\n", " ") for t in TEXTS]
    data = "".join(line + "\n" for line in lines).encode()
    if kind.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as f:
            f.write(data)
    else:
        path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    "kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst", "txt", "txt.gz"]
)
def test_files_of_every_kind_can_be_read_twice(tmp_path, kind):
    corpus = load_corpus(str(write(tmp_path, kind)))
    expected = TEXTS if "txt" not in kind else [t.replace("\n", " ") for t in TEXTS]
    assert [d["text"] for d in corpus] == [d["text"] for d in corpus] == expected


def test_glob_reads_files_in_order_and_split_is_substituted(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for i in range(3):
            (tmp_path / split / f"{i}.txt").write_text(f"{split} {i}\n")
    for split in ("train", "test"):
        corpus = load_corpus(f"{tmp_path}/{{split}}/*.txt", split)
        assert [d["text"] for d in corpus] == [f"{split} {i}" for i in range(3)]
    with pytest.raises(ValueError, match="one split"):
        load_corpus(f"{tmp_path}/train/*.txt", "test")


def test_limits(tmp_path):
    path = str(write(tmp_path, "jsonl"))
    sizes = [len(t.encode()) for t in TEXTS]
    assert len(list(load_corpus(path, limit_docs=2))) == 2
    assert len(list(load_corpus(path, limit_bytes=sum(sizes[:2])))) == 2
    assert len(list(load_corpus(path, limit_bytes=sum(sizes[:2]) - 1))) == 1


def test_id_changes_with_the_files_and_the_limits(tmp_path):
    path = write(tmp_path, "txt")
    before = load_corpus(str(path)).id
    assert before == load_corpus(str(path)).id
    assert before != load_corpus(str(path), limit_docs=1).id
    path.write_text("other\n")
    assert load_corpus(str(path)).id != before


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("bad.jsonl", b'{"text": "a"}\n{"text": 3}\n', NO_OBJECT),
        ("bad.jsonl", b'{"text": "a"}\n[1]\n', NO_OBJECT),
        ("bad.jsonl", b'{"text": "a"}\n{"te', NO_OBJECT),
        ("bad.txt", "zażółć\n".encode("iso-8859-2"), r"bad.txt, line 1: not UTF-8"),
        ("bad.parquet", b"PAR1 and nothing more", NO_PARQUET),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(load_corpus(str(tmp_path / name)))


def test_a_truncated_parquet_file_and_one_without_text_are_named(tmp_path):
    whole = write(tmp_path, "parquet")
    whole.write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a whole parquet file"):
        list(load_corpus(str(whole)))
    pq.write_table(pa.table({"words": TEXTS}), tmp_path / "no.parquet")
    with pytest.raises(ValueError, match="no column 'text', only words"):
        list(load_corpus(str(tmp_path / "no.parquet")))


def test_half_a_surrogate_pair_in_json_does_not_break_utf8(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"text": "a\\ud83dz"}\n')
    assert [d["text"] for d in load_corpus(f"{tmp_path}/s.jsonl")] == ["a\ufffdz"]


def test_unknown_names_and_splits():
    with pytest.raises(FileNotFoundError, match="no corpus 'nothing'"):
        load_corpus("nothing")
    with pytest.raises(ValueError, match="expected 'train' or 'test'"):
        load_corpus("embedded", "validation")


def test_embedded_splits_are_disjoint_and_complete():
    train = [d["id"] for d in load_corpus("embedded", "train")]
    test = [d["id"] for d in load_corpus("embedded", "test")]
    pairs = load_parallel()
    assert len(train) == 56
    assert len(set(train) | set(test)) == len(train) + len(test) == len(pairs)
    registers = {d["register"] for d in load_corpus("embedded", "test")}
    assert registers == {p.register for p in pairs}


def test_hold_out_divides(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(101)))
    train, test = hold_out(load_corpus(f"{tmp_path}/a.txt"), every=50)
    assert [d["text"] for d in test] == ["0", "50", "100"] and len(list(train)) == 98
    assert (train.split, test.split) == ("train", "test") and train.id != test.id


READ = """
import sys
from babygpt.corpus import load_corpus
split, limit = sys.argv[1], int(sys.argv[2])
docs = list(load_corpus("fineweb2", split, limit_docs=limit))
print(len(docs), docs[0]["id"], docs[-1]["id"])
"""


def read(hub, split, limit):
    """[how many documents, the first's id, the last's id], read by another process."""
    done = python("-c", READ, split, limit, env=hub.env)
    assert done.returncode == 0, done.stdout
    return done.stdout.split()[-3:]


def test_fineweb2_streams_through_the_real_client(hub):
    whole = sum(p.stat().st_size for p in hub.root.rglob("train/*.parquet"))
    hub.sent = 0
    assert read(hub, "train", 10) == ["10", "train-0-0", "train-0-9"]
    few = hub.sent
    hub.sent = 0
    assert read(hub, "train", 4500) == ["4500", "train-0-0", "train-2-499"]
    # ten documents are one row group and the footers; 4,500 are 3/4 of the files
    assert few < 0.2 * whole < hub.sent < 0.9 * whole
    assert read(hub, "test", 1000) == ["100", "test-0-0", "test-0-99"]


def test_an_unreachable_hub_is_named():
    done = python("-c", READ, "train", 1, env=NO_HUB)
    assert done.returncode != 0
    source = "HuggingFaceFW/fineweb-2 (revision main) from http://127.0.0.1:9"
    assert f"ConnectionError: cannot read {source}" in done.stdout
    assert "use the corpus 'embedded'" in done.stdout
