"""The exercises as a reader meets them: stubs say that they are empty, the folded solutions pass, typical mistakes get their names."""

import json
import math
import re
from inspect import signature

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F

from babygpt.exercises import EXERCISES, _outcome, _same, check

NAMES = {"np": np, "torch": torch, "math": math, "F": F}  # what a notebook has imported by the time of its exercises


def read_notebooks():
    """{number: (notebook, text with hints and solution, source of the stub's cell)}"""
    found = {}
    for path in sorted((ROOT / "nbs").glob("[01]*.ipynb")):
        cells = [(c["cell_type"], "".join(c["source"])) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        for (_, text), (kind, code) in zip(cells, cells[1:]):
            if kind == "code" and (call := re.search(r'^check\("(\d\d\.\d)", (\w+)\)$', code, re.M)):
                assert call[1] not in found, f"{call[1]} is asked twice"
                found[call[1]] = path.stem, text, code
    return found


NOTEBOOKS = read_notebooks()


def verdict(capsys, number, answer):
    capsys.readouterr()
    check(number, answer)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith(number)
    return lines[0]


def function(source):
    names = dict(NAMES)
    exec(source, names)
    return next(v for k, v in names.items() if k not in NAMES and callable(v) and not k.startswith("__"))


def empty(number):
    return function(re.sub(r"^(from babygpt.*|check\(.*)$", "", NOTEBOOKS[number][2], flags=re.M))


def solution(number):
    return re.search(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```", NOTEBOOKS[number][1], re.S)[1]


def test_every_exercise_is_asked_once_and_in_its_notebook():
    assert NOTEBOOKS.keys() == EXERCISES.keys()
    assert all(number[:2] == stem[:2] for number, (stem, _, _) in NOTEBOOKS.items())
    for stem in {stem for stem, _, _ in NOTEBOOKS.values()}:
        assert 2 <= sum(s == stem for s, _, _ in NOTEBOOKS.values()) <= 4
    assert {number[:2] for number in EXERCISES} >= {f"{i:02}" for i in (*range(9), *range(10, 13))}


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_hints_come_in_steps_and_everything_is_folded(number):
    text = NOTEBOOKS[number][1]
    assert re.findall(r"<details><summary>(.*?)</summary>", text) == ["Hint 1", "Hint 2", "Solution"]
    assert text.count("</details>") == 3 and f"### {number} " in text


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_the_stub_is_told_from_an_answer(number, capsys):
    assert "… nothing is returned yet" in verdict(capsys, number, empty(number))


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_the_folded_solution_passes_and_has_the_stubs_signature(number, capsys):
    stub, solved = empty(number), function(solution(number))
    assert (stub.__name__, [*signature(stub).parameters]) == (solved.__name__, [*signature(solved).parameters])
    assert "✓ right" in verdict(capsys, number, solved)


@pytest.mark.parametrize("number", EXERCISES)
def test_no_mistake_is_right_and_no_two_are_alike(number):
    exercise = EXERCISES[number]
    cases = list(exercise.cases())
    outcomes = [[_outcome(exercise, f, args) for args in cases] for f in (exercise.spec, *exercise.mistakes.values())]
    assert len(exercise.mistakes) >= 2
    for i, a in enumerate(outcomes):
        assert not any(all(map(_same, a, b)) for b in outcomes[:i])


# What readers write, in their own words, and a piece of the verdict that they should get.
WRONG = [
    ("00.1", "def f(text, n_bytes):\n return text[:n_bytes]", "counts letters"),
    ("00.1", "def f(text, n_bytes):\n return str(text.encode('utf-8')[:n_bytes], 'utf-8', 'replace')", "replacement character"),
    ("00.1", "def f(text, n_bytes):\n return bytes(list(text.encode())[:n_bytes]).decode('utf-8')", "raises an error"),
    ("00.2", "def f(a, b, n):\n a, b = set(a.split()), set(b.split())\n return len(a & b) / len(a | b)", "single words"),
    ("00.2", "def f(a, b, n):\n s = lambda t: {' '.join(t.split()[i:i+n]) for i in range(len(t.split())-n+1)}\n return len(s(a) & s(b)) / min(len(s(a)), len(s(b)))", "containment"),
    ("00.2", "def f(a, b, n):\n s = lambda t: {' '.join(t.split()[i:i+n]) for i in range(len(t.split())-n+1)}\n return len(s(a) & s(b)) / (len(s(a)) + len(s(b)))", "counted twice"),
    ("01.1", "def f(ids, pair, new):\n out = []\n i = 0\n while i < len(ids) - 1:\n  if (ids[i], ids[i+1]) == pair:\n   out.append(new); i += 2\n  else:\n   out.append(ids[i]); i += 1\n return out", "loses the last token"),
    ("01.1", "def f(ids, pair, new):\n for i in range(len(ids) - 1):\n  if (ids[i], ids[i+1]) == pair:\n   return ids[:i] + [new] + ids[i+2:]\n return ids", "only the first pair"),
    ("01.2", "def f(pairs, n):\n r = [n(a) / n(b) for a, b in pairs]\n return sum(r) / len(r)", "mean of ratios"),
    ("01.2", "def f(pairs, n):\n return sum(n(b) for a, b in pairs) / sum(n(a) for a, b in pairs)", "upside down"),
    ("01.3", "def f(nats, text, n):\n return nats * n / len(text.encode())", "nats per byte"),
    ("01.3", "def f(nats, text, n):\n return nats / math.log(2) * n / len(text)", "bits per letter"),
    ("01.3", "def f(nats, text, n):\n return nats * math.log(2) * n / len(text.encode())", "multiplies by ln 2"),
    ("02.1", "def f(docs, eot):\n ids, ends = [], []\n for d in docs:\n  ids = ids + [eot] + list(d)\n  ends.append(len(ids))\n return ids, ends", "opens documents"),
    ("02.1", "def f(docs, eot):\n ids, ends = [], []\n for d in docs:\n  ids.extend(d); ends.append(len(ids)); ids.append(eot)\n return ids, ends", "points at the end-of-text"),
    ("02.2", "def f(ends, cursor):\n return next(e for e in ends if e >= cursor)", "only looks forward"),
    ("02.2", "def f(ends, cursor):\n return min(reversed(ends), key=lambda e: abs(e - cursor))", "takes the later"),
    ("02.2", "def f(ends, cursor):\n return int(np.abs(np.array(ends) - cursor).argmin())", "number of the end in the list"),
    ("02.3", "def f(ends, block):\n return len([c for c in range(block, ends[-1], block) if c not in ends])", "counts cuts, not documents"),
    ("02.3", "def f(ends, block):\n starts = [0] + ends[:-1]\n cuts = np.arange(block, ends[-1], block)\n return sum(bool(((cuts > a) & (cuts <= b)).any()) for a, b in zip(starts, ends))", "fall on a document's end"),
    ("03.1", "def f(step, lane, row, col, steps, n_lanes, rows, block_size):\n return step * n_lanes * rows * block_size + lane * rows * block_size + row * block_size + col", "in turn, lane after lane"),
    ("03.1", "def f(step, lane, row, col, steps, n_lanes, rows, block_size):\n return lane * steps * block_size + step * block_size + row * block_size + col", "forgets that a lane reads"),
    ("03.2", "def f(n, seed, epoch):\n return np.random.permutation(n)", "drawn before"),
    ("03.2", "def f(n, seed, epoch):\n np.random.seed(seed + epoch)\n return np.random.permutation(n)", "adds seed and epoch"),
    ("03.2", "def f(n, seed, epoch):\n return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()", "ignores the epoch"),
    ("03.3", "def f(n, rank, world):\n k = n // world\n return list(range(n))[rank * k:(rank + 1) * k]", "drops the remainder"),
    ("03.3", "def f(n, rank, world):\n ids = list(range(n))\n while len(ids) % world:\n  ids.append(ids[len(ids) - n])\n k = len(ids) // world\n return ids[rank * k:(rank + 1) * k]", "DistributedSampler"),
    ("04.1", "def f(x, gain, bias):\n return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) * gain + bias", "divides the variance by n - 1"),
    ("04.1", "def f(x, gain, bias):\n return x / torch.sqrt((x ** 2).mean(-1, keepdim=True) + 1e-5) * gain + bias", "RMS norm"),
    ("04.2", "def f(q, k, v):\n return F.softmax(q @ k.mT / math.sqrt(q.size(-1)), dim=-1) @ v", "future"),
    ("04.2", "def f(q, k, v):\n return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)", "does not divide by √d"),
    ("04.2", "def f(q, k, v):\n w = F.softmax(q @ k.mT / math.sqrt(q.size(-1)), dim=-1)\n return torch.tril(w) @ v", "masks after the softmax"),
    ("04.3", "def f(L, d, V, T):\n return L * (12*d*d + 13*d) + 2*V*d + T*d + 2*d", "counts the output layer"),
    ("04.3", "def f(L, d, V, T):\n return L * (12*d*d + 4*d) + V*d + T*d + 2*d", "forgets the biases"),
    ("05.1", "def f(step, max_steps, warmup, lr, min_lr):\n if step < warmup: return lr * step / warmup\n done = min(1, (step - warmup) / (max_steps - warmup))\n return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))", "begins with a rate of 0"),
    ("05.1", "def f(step, max_steps, warmup, lr, min_lr):\n if step < warmup: return lr * (step + 1) / warmup\n done = (step - warmup) / (max_steps - warmup)\n return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))", "rises again"),
    ("05.2", "def f(model, x, y, pieces):\n for a, b in zip(x.chunk(pieces), y.chunk(pieces)):\n  model(a, b)[1].backward()", "adds the means up"),
    ("05.2", "def f(model, x, y, pieces):\n for a, b in zip(x.chunk(pieces), y.chunk(pieces)):\n  (model(a, b)[1] / pieces).backward()", "mean of means"),
    ("05.2", "def f(model, x, y, pieces):\n for a, b in zip(x.chunk(pieces), y.chunk(pieces)):\n  model.zero_grad()\n  (model(a, b)[1] / pieces).backward()", "clears the gradients inside the loop"),
    ("05.3", "def f(grads, max_norm):\n return [g * min(1, max_norm / g.norm().item()) for g in grads]", "every tensor by itself"),
    ("05.3", "def f(grads, max_norm):\n return [torch.clamp(g, -max_norm, max_norm) for g in grads]", "cuts every number"),
    ("05.3", "def f(grads, max_norm):\n n = torch.cat(grads).norm().item()\n return [g / n * max_norm for g in grads]", "makes small gradients larger"),
    ("06.1", "def f(logits, ids, n_ctx):\n lp = F.log_softmax(logits, -1)\n return lp[torch.arange(n_ctx, len(ids)), ids[n_ctx:]].sum().item()", "off by one"),
    ("06.1", "def f(logits, ids, n_ctx):\n return -F.cross_entropy(logits[n_ctx - 1:-1], ids[n_ctx:]).item()", "is a mean"),
    ("06.1", "def f(logits, ids, n_ctx):\n return -F.cross_entropy(logits[:-1], ids[1:], reduction='sum').item()", "scores the context too"),
    ("06.2", "def f(logliks, endings):\n return int(np.argmax(np.array(logliks) / [len(e) for e in endings]))", "divides by letters"),
    ("06.2", "def f(logliks, endings):\n return logliks.index(max(logliks))", "short endings win"),
    ("06.2", "def f(logliks, endings):\n return int(np.argmin(np.array(logliks) / [len(e.encode()) for e in endings]))", "takes the lowest"),
    ("06.3", "def f(k, n, p):\n return (k / n - p) / math.sqrt(p * (1 - p))", None),
    ("06.3", "def f(k, n, p):\n return (k - n * p) / (n * p * (1 - p))", "forgets the root"),
    ("06.3", "def f(k, n, p):\n return (k / n - p) * 100", "points above chance"),
    ("07.1", "def f(logits, t):\n return F.softmax(logits / t, dim=0)", "divides by zero"),
    ("07.1", "def f(logits, t):\n if t == 0: return F.one_hot(logits.argmax(), len(logits))\n return torch.softmax(logits.mul(t), 0)", "multiplies"),
    ("07.1", "def f(logits, t):\n if t == 0: return F.one_hot(logits.argmax(), len(logits))\n p = torch.softmax(logits, 0) / t\n return p / p.sum()", "gives back what was there"),
    ("07.2", "def f(probs, p):\n v, i = torch.sort(probs, descending=True)\n return i[v.cumsum(0) <= p].tolist()", "one too early"),
    ("07.2", "def f(probs, p):\n v, i = torch.sort(probs, descending=True)\n return i[: int((v.cumsum(0) <= p).sum()) + 1].tolist()", "one too late"),
    ("07.2", "def f(probs, p):\n v, i = torch.sort(probs, descending=True)\n n = int((v.cumsum(0) < p).sum()) + 1\n return sorted(i[:n].tolist())", "in their own order"),
    ("07.3", "def f(n_layer, n_head, n_embd, batch, length, itemsize):\n return n_layer * n_embd * batch * length * itemsize", "keys or values"),
    ("07.3", "def f(n_layer, n_head, n_embd, batch, length, itemsize):\n return 2 * n_layer * n_head * n_embd * batch * length * itemsize", "share the width"),
    ("07.4", "def f(pieces):\n return [str(p, 'utf-8', 'replace') for p in pieces]", "half a letter"),
    ("07.4", "def f(pieces):\n out, all = [], b''\n for p in pieces:\n  all += p; out.append(all.decode('utf-8', 'ignore'))\n return out", "what is new"),
    ("07.4", "def f(pieces):\n return [''.join(map(chr, p)) for p in pieces]", "Latin-1"),
    ("08.1", "def f(a, b):\n d = np.subtract(b, a)\n return d.mean(), 4.303 * d.std() / 3 ** 0.5", "divides by n"),
    ("08.1", "def f(a, b):\n d = [y - x for x, y in zip(a, b)]\n m = sum(d) / 3\n return m, 4.303 * (sum((x - m) ** 2 for x in d) / 2) ** 0.5", "spread of a single run"),
    ("08.1", "def f(a, b):\n d = np.subtract(b, a)\n return d.mean(), 1.96 * d.std(ddof=1) / 3 ** 0.5", "takes 1.96"),
    ("08.2", "def f(found):\n lrs = sorted(found)\n best = min(lrs, key=lambda lr: math.inf if math.isnan(found[lr]) else found[lr])\n return best * 2 if best == lrs[-1] else 0.0", "never looks below"),
    ("08.2", "def f(found):\n return max(found) * 2", "widens the sweep although"),
    ("08.3", "def f(curve, goal):\n for n, b in curve:\n  if b <= goal:\n   return n\n return math.inf", "takes the first point below"),
    ("08.3", "def f(curve, goal):\n for (n, a), (m, b) in zip(curve, curve[1:]):\n  if b <= goal:\n   return n + (m - n) * (a - goal) / (a - b)\n return curve[-1][0]", "gives the last point"),
    ("10.1", "def f(n_layer, n_embd, vocab_size, block_size):\n return 6 * (12 * n_layer * n_embd ** 2 + vocab_size * n_embd)", "leaves attention out"),
    ("10.1", "def f(n_layer, n_embd, vocab_size, block_size):\n return 2 * (12 * n_layer * n_embd ** 2 + vocab_size * n_embd) + 4 * n_layer * block_size * n_embd", "forward pass only"),
    ("10.1", "def f(n_layer, n_embd, vocab_size, block_size):\n return 6 * (12 * n_layer * n_embd ** 2 + vocab_size * n_embd) + 6 * n_layer * block_size * n_embd", "half of attention"),
    ("10.1", "def f(n_layer, n_embd, vocab_size, block_size):\n return 72 * n_layer * n_embd ** 2 + 12 * n_layer * block_size * n_embd", "leaves the output layer out"),
    ("10.2", "def f(n, world):\n return 16 * n", "forgets DDP's buckets"),
    ("10.2", "def f(n, world):\n return 20 * n", "for a single process too"),
    ("10.2", "def f(n, world):\n return (20 if world > 1 else 16) * n / world", "divides by the processes"),
    ("10.2", "def f(n, world):\n return n * (3 + (world > 1)) * 4", "one of AdamW's two moments"),
    ("10.3", "def f(n_bytes, world, gbit):\n return 2 * (world - 1) / world * n_bytes / (gbit * 1e9)", "bytes for bits"),
    ("10.3", "def f(n_bytes, world, gbit):\n return (world - 1) / world * n_bytes * 8 / gbit / 1e9", "one round"),
    ("10.3", "def f(n_bytes, world, gbit):\n return 2 * n_bytes * 8 / (gbit * 1e9)", "all of it twice"),
    ("10.3", "def f(n_bytes, world, gbit):\n return 2 * (world - 1) * n_bytes * 8 / (gbit * 1e9)", "everything in every turn"),
    ("11.1", "def f(disk, name, data):\n content = data\n disk[name] = content", "writes into the file itself"),
    ("11.1", "def f(disk, name, data):\n new = name + '.tmp'\n disk[new] = data\n if name in disk:\n  del disk[name]\n disk.rename(new, name)", "deletes the old one first"),
    ("11.1", "def f(disk, name, data):\n disk['backup'] = disk.get(name, '')\n disk[name] = data", "leaves a second file behind"),
    ("11.2", "def f(folders, damaged):\n return sorted(set(n for n in folders if '.' not in n) - set(damaged) or [''])[-1]", "compares names as words"),
    ("11.2", "def f(folders, damaged):\n ok = [n for n in folders if n[-4:] != '.tmp']\n return max(ok, key=lambda n: int(n[5:])) if ok else ''", "takes a damaged one"),
    ("11.2", "def f(folders, damaged):\n for n in reversed(folders):\n  if n not in damaged and not n.endswith('tmp'):\n   return n\n return ''", "takes the last of the list"),
    ("12.1", "def f(save, between):\n return (save * between) ** 0.5", "counts a whole interval"),
    ("12.1", "def f(save, between):\n return 2 * between * save", "forgets the root"),
    ("12.2", "def f(last, every, at, kills):\n return last + kills * (at % every)", "takes the checkpoint of step `at` for written"),
    ("12.2", "def f(last, every, at, kills):\n for _ in range(kills):\n  last += at\n return last", "begins anew"),
]  # fmt: skip


@pytest.mark.parametrize("number, source, piece", WRONG, ids=lambda v: v if v in EXERCISES else "")
def test_a_typical_mistake_gets_its_name(number, source, piece, capsys):
    told = verdict(capsys, number, function(source))
    assert "✗" in told and (piece or "expected") in told


def test_two_mistakes_of_every_exercise_are_tried_above():
    assert {n for n in EXERCISES if sum(number == n and piece is not None for number, _, piece in WRONG) >= 2} == set(EXERCISES)


JUNK = [None, 7, "text", lambda: 1, lambda *a: 1 / 0, lambda *a: object(), lambda *a: "no", lambda *a: float("nan"), lambda *a: [None], lambda *a: {}, lambda *a: (yield)]


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_check_says_one_line_and_never_raises(number, junk, capsys):
    assert "✓" not in verdict(capsys, number, junk)


def test_arguments_are_copies_and_an_unknown_number_is_told(capsys):
    def spoils(ids, pair, new_id):
        ids.clear()
        return []

    assert "✗" in verdict(capsys, "01.1", spoils)
    assert "✓" in verdict(capsys, "01.1", EXERCISES["01.1"].spec)
    assert "no such exercise" in verdict(capsys, "99.1", spoils)
