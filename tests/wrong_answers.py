"""What readers write, in their own words, and a piece of the verdict it should get."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

WRONG: list[tuple[str, Callable, str | None]] = []


def wrong(number: str, piece: str | None):
    """Note a wrong answer to exercise `number`; its verdict should hold `piece`.

    None stands for a mistake without a name: the verdict is what was expected.
    """

    def note(answer: Callable) -> Callable:
        WRONG.append((number, answer, piece))
        return answer

    return note


@wrong("00.1", "counts letters")
def counts_letters(text, n_bytes):
    return text[:n_bytes]


@wrong("00.1", "replacement character")
def replacement_character(text, n_bytes):
    return str(text.encode("utf-8")[:n_bytes], "utf-8", "replace")


@wrong("00.1", "raises an error")
def raises_an_error(text, n_bytes):
    return bytes(list(text.encode())[:n_bytes]).decode("utf-8")


@wrong("00.2", "single words")
def single_words(a, b, n):
    a, b = set(a.split()), set(b.split())
    return len(a & b) / len(a | b)


def shingles(text, n):
    words = text.split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


@wrong("00.2", "containment")
def containment(a, b, n):
    a, b = shingles(a, n), shingles(b, n)
    return len(a & b) / min(len(a), len(b))


@wrong("00.2", "counted twice")
def counted_twice(a, b, n):
    a, b = shingles(a, n), shingles(b, n)
    return len(a & b) / (len(a) + len(b))


@wrong("01.1", "loses the last token")
def loses_the_last_token(ids, pair, new):
    out = []
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


@wrong("01.1", "only the first pair")
def only_the_first_pair(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2 :]
    return ids


@wrong("01.2", "mean of ratios")
def mean_of_ratios(pairs, n):
    r = [n(a) / n(b) for a, b in pairs]
    return sum(r) / len(r)


@wrong("01.2", "upside down")
def upside_down(pairs, n):
    return sum(n(b) for a, b in pairs) / sum(n(a) for a, b in pairs)


@wrong("01.3", "nats per byte")
def nats_per_byte(nats, text, n):
    return nats * n / len(text.encode())


@wrong("01.3", "bits per letter")
def bits_per_letter(nats, text, n):
    return nats / math.log(2) * n / len(text)


@wrong("01.3", "multiplies by ln 2")
def multiplies_by_ln_2(nats, text, n):
    return nats * math.log(2) * n / len(text.encode())


@wrong("02.1", "opens documents")
def opens_documents(docs, eot):
    ids, ends = [], []
    for d in docs:
        ids = ids + [eot] + list(d)
        ends.append(len(ids))
    return ids, ends


@wrong("02.1", "points at the end-of-text")
def points_at_the_end_of_text(docs, eot):
    ids, ends = [], []
    for d in docs:
        ids.extend(d)
        ends.append(len(ids))
        ids.append(eot)
    return ids, ends


@wrong("02.2", "only looks forward")
def only_looks_forward(ends, cursor):
    return next(e for e in ends if e >= cursor)


@wrong("02.2", "takes the later")
def takes_the_later(ends, cursor):
    return min(reversed(ends), key=lambda e: abs(e - cursor))


@wrong("02.2", "number of the end in the list")
def number_of_the_end_in_the_list(ends, cursor):
    return int(np.abs(np.array(ends) - cursor).argmin())


@wrong("02.3", "counts cuts, not documents")
def counts_cuts_not_documents(ends, block):
    return len([c for c in range(block, ends[-1], block) if c not in ends])


@wrong("02.3", "fall on a document's end")
def fall_on_a_documents_end(ends, block):
    starts = [0] + ends[:-1]
    cuts = np.arange(block, ends[-1], block)
    return sum(bool(((cuts > a) & (cuts <= b)).any()) for a, b in zip(starts, ends))


@wrong("03.1", "in turn, lane after lane")
def in_turn_lane_after_lane(step, lane, row, col, steps, n_lanes, rows, block_size):
    return (
        step * n_lanes * rows * block_size
        + lane * rows * block_size
        + row * block_size
        + col
    )


@wrong("03.1", "forgets that a lane reads")
def forgets_that_a_lane_reads(step, lane, row, col, steps, n_lanes, rows, block_size):
    return lane * steps * block_size + step * block_size + row * block_size + col


@wrong("03.2", "drawn before")
def drawn_before(n, seed, epoch):
    return np.random.permutation(n)


@wrong("03.2", "adds seed and epoch")
def adds_seed_and_epoch(n, seed, epoch):
    np.random.seed(seed + epoch)
    return np.random.permutation(n)


@wrong("03.2", "ignores the epoch")
def ignores_the_epoch(n, seed, epoch):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


@wrong("03.3", "drops the remainder")
def drops_the_remainder(n, rank, world):
    k = n // world
    return list(range(n))[rank * k : (rank + 1) * k]


@wrong("03.3", "DistributedSampler")
def distributed_sampler(n, rank, world):
    ids = list(range(n))
    while len(ids) % world:
        ids.append(ids[len(ids) - n])
    k = len(ids) // world
    return ids[rank * k : (rank + 1) * k]


@wrong("04.1", "divides the variance by n - 1")
def divides_the_variance_by_n_minus_1(x, gain, bias):
    std = torch.sqrt(x.var(-1, keepdim=True) + 1e-5)
    return (x - x.mean(-1, keepdim=True)) / std * gain + bias


@wrong("04.1", "RMS norm")
def rms_norm(x, gain, bias):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * gain + bias


@wrong("04.2", "future")
def future(q, k, v):
    return F.softmax(q @ k.mT / math.sqrt(q.size(-1)), dim=-1) @ v


@wrong("04.2", "does not divide by √d")
def does_not_divide_by_root_d(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


@wrong("04.2", "masks after the softmax")
def masks_after_the_softmax(q, k, v):
    w = F.softmax(q @ k.mT / math.sqrt(q.size(-1)), dim=-1)
    return torch.tril(w) @ v


@wrong("04.3", "counts the output layer")
def counts_the_output_layer(L, d, V, T):
    return L * (12 * d * d + 13 * d) + 2 * V * d + T * d + 2 * d


@wrong("04.3", "forgets the biases")
def forgets_the_biases(L, d, V, T):
    return L * (12 * d * d + 4 * d) + V * d + T * d + 2 * d


@wrong("05.1", "begins with a rate of 0")
def begins_with_a_rate_of_0(step, max_steps, warmup, lr, min_lr):
    if step < warmup:
        return lr * step / warmup
    done = min(1, (step - warmup) / (max_steps - warmup))
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


@wrong("05.1", "rises again")
def rises_again(step, max_steps, warmup, lr, min_lr):
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / (max_steps - warmup)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


@wrong("05.2", "adds the means up")
def adds_the_means_up(model, x, y, pieces):
    for a, b in zip(x.chunk(pieces), y.chunk(pieces)):
        model(a, b)[1].backward()


@wrong("05.2", "mean of means")
def mean_of_means(model, x, y, pieces):
    for a, b in zip(x.chunk(pieces), y.chunk(pieces)):
        (model(a, b)[1] / pieces).backward()


@wrong("05.2", "clears the gradients inside the loop")
def clears_the_gradients_inside_the_loop(model, x, y, pieces):
    for a, b in zip(x.chunk(pieces), y.chunk(pieces)):
        model.zero_grad()
        (model(a, b)[1] / pieces).backward()


@wrong("05.3", "every tensor by itself")
def every_tensor_by_itself(grads, max_norm):
    return [g * min(1, max_norm / g.norm().item()) for g in grads]


@wrong("05.3", "cuts every number")
def cuts_every_number(grads, max_norm):
    return [torch.clamp(g, -max_norm, max_norm) for g in grads]


@wrong("05.3", "makes small gradients larger")
def makes_small_gradients_larger(grads, max_norm):
    n = torch.cat(grads).norm().item()
    return [g / n * max_norm for g in grads]


@wrong("06.1", "off by one")
def off_by_one(logits, ids, n_ctx):
    lp = F.log_softmax(logits, -1)
    return lp[torch.arange(n_ctx, len(ids)), ids[n_ctx:]].sum().item()


@wrong("06.1", "is a mean")
def is_a_mean(logits, ids, n_ctx):
    return -F.cross_entropy(logits[n_ctx - 1 : -1], ids[n_ctx:]).item()


@wrong("06.1", "scores the context too")
def scores_the_context_too(logits, ids, n_ctx):
    return -F.cross_entropy(logits[:-1], ids[1:], reduction="sum").item()


@wrong("06.2", "divides by letters")
def divides_by_letters(logliks, endings):
    return int(np.argmax(np.array(logliks) / [len(e) for e in endings]))


@wrong("06.2", "short endings win")
def short_endings_win(logliks, endings):
    return logliks.index(max(logliks))


@wrong("06.2", "takes the lowest")
def takes_the_lowest(logliks, endings):
    return int(np.argmin(np.array(logliks) / [len(e.encode()) for e in endings]))


@wrong("06.3", None)
def shares_not_counts(k, n, p):
    return (k / n - p) / math.sqrt(p * (1 - p))


@wrong("06.3", "forgets the root")
def forgets_the_root(k, n, p):
    return (k - n * p) / (n * p * (1 - p))


@wrong("06.3", "points above chance")
def points_above_chance(k, n, p):
    return (k / n - p) * 100


@wrong("07.1", "divides by zero")
def divides_by_zero(logits, t):
    return F.softmax(logits / t, dim=0)


@wrong("07.1", "multiplies")
def multiplies(logits, t):
    if t == 0:
        return F.one_hot(logits.argmax(), len(logits))
    return torch.softmax(logits.mul(t), 0)


@wrong("07.1", "gives back what was there")
def gives_back_what_was_there(logits, t):
    if t == 0:
        return F.one_hot(logits.argmax(), len(logits))
    p = torch.softmax(logits, 0) / t
    return p / p.sum()


@wrong("07.2", "one too early")
def one_too_early(probs, p):
    v, i = torch.sort(probs, descending=True)
    return i[v.cumsum(0) <= p].tolist()


@wrong("07.2", "one too late")
def one_too_late(probs, p):
    v, i = torch.sort(probs, descending=True)
    return i[: int((v.cumsum(0) <= p).sum()) + 1].tolist()


@wrong("07.2", "in their own order")
def in_their_own_order(probs, p):
    v, i = torch.sort(probs, descending=True)
    n = int((v.cumsum(0) < p).sum()) + 1
    return sorted(i[:n].tolist())


@wrong("07.3", "keys or values")
def keys_or_values(n_layer, n_head, n_embd, batch, length, itemsize):
    return n_layer * n_embd * batch * length * itemsize


@wrong("07.3", "share the width")
def share_the_width(n_layer, n_head, n_embd, batch, length, itemsize):
    return 2 * n_layer * n_head * n_embd * batch * length * itemsize


@wrong("07.4", "half a letter")
def half_a_letter(pieces):
    return [str(p, "utf-8", "replace") for p in pieces]


@wrong("07.4", "what is new")
def what_is_new(pieces):
    out, all = [], b""
    for p in pieces:
        all += p
        out.append(all.decode("utf-8", "ignore"))
    return out


@wrong("07.4", "Latin-1")
def latin_1(pieces):
    return ["".join(map(chr, p)) for p in pieces]


@wrong("08.1", "divides by n")
def divides_by_n(a, b):
    d = np.subtract(b, a)
    return d.mean(), 4.303 * d.std() / 3**0.5


@wrong("08.1", "spread of a single run")
def spread_of_a_single_run(a, b):
    d = [y - x for x, y in zip(a, b)]
    m = sum(d) / 3
    return m, 4.303 * (sum((x - m) ** 2 for x in d) / 2) ** 0.5


@wrong("08.1", "takes 1.96")
def takes_1_96(a, b):
    d = np.subtract(b, a)
    return d.mean(), 1.96 * d.std(ddof=1) / 3**0.5


@wrong("08.2", "never looks below")
def never_looks_below(found):
    lrs = sorted(found)
    best = min(lrs, key=lambda lr: math.inf if math.isnan(found[lr]) else found[lr])
    return best * 2 if best == lrs[-1] else 0.0


@wrong("08.2", "widens the sweep although")
def widens_the_sweep_although(found):
    return max(found) * 2


@wrong("08.3", "takes the first point below")
def takes_the_first_point_below(curve, goal):
    for n, b in curve:
        if b <= goal:
            return n
    return math.inf


@wrong("08.3", "gives the last point")
def gives_the_last_point(curve, goal):
    for (n, a), (m, b) in zip(curve, curve[1:]):
        if b <= goal:
            return n + (m - n) * (a - goal) / (a - b)
    return curve[-1][0]


@wrong("10.1", "leaves attention out")
def leaves_attention_out(n_layer, n_embd, vocab_size, block_size):
    return 6 * (12 * n_layer * n_embd**2 + vocab_size * n_embd)


@wrong("10.1", "forward pass only")
def forward_pass_only(n_layer, n_embd, vocab_size, block_size):
    return (
        2 * (12 * n_layer * n_embd**2 + vocab_size * n_embd)
        + 4 * n_layer * block_size * n_embd
    )


@wrong("10.1", "half of attention")
def half_of_attention(n_layer, n_embd, vocab_size, block_size):
    return (
        6 * (12 * n_layer * n_embd**2 + vocab_size * n_embd)
        + 6 * n_layer * block_size * n_embd
    )


@wrong("10.1", "leaves the output layer out")
def leaves_the_output_layer_out(n_layer, n_embd, vocab_size, block_size):
    return 72 * n_layer * n_embd**2 + 12 * n_layer * block_size * n_embd


@wrong("10.2", "forgets DDP's buckets")
def forgets_ddps_buckets(n, world):
    return 16 * n


@wrong("10.2", "for a single process too")
def for_a_single_process_too(n, world):
    return 20 * n


@wrong("10.2", "divides by the processes")
def divides_by_the_processes(n, world):
    return (20 if world > 1 else 16) * n / world


@wrong("10.2", "one of AdamW's two moments")
def one_of_adamws_two_moments(n, world):
    return n * (3 + (world > 1)) * 4


@wrong("10.3", "bytes for bits")
def bytes_for_bits(n_bytes, world, gbit):
    return 2 * (world - 1) / world * n_bytes / (gbit * 1e9)


@wrong("10.3", "one round")
def one_round(n_bytes, world, gbit):
    return (world - 1) / world * n_bytes * 8 / gbit / 1e9


@wrong("10.3", "all of it twice")
def all_of_it_twice(n_bytes, world, gbit):
    return 2 * n_bytes * 8 / (gbit * 1e9)


@wrong("10.3", "everything in every turn")
def everything_in_every_turn(n_bytes, world, gbit):
    return 2 * (world - 1) * n_bytes * 8 / (gbit * 1e9)


@wrong("11.1", "writes into the file itself")
def writes_into_the_file_itself(disk, name, data):
    content = data
    disk[name] = content


@wrong("11.1", "deletes the old one first")
def deletes_the_old_one_first(disk, name, data):
    new = name + ".tmp"
    disk[new] = data
    if name in disk:
        del disk[name]
    disk.rename(new, name)


@wrong("11.1", "leaves a second file behind")
def leaves_a_second_file_behind(disk, name, data):
    disk["backup"] = disk.get(name, "")
    disk[name] = data


@wrong("11.2", "compares names as words")
def compares_names_as_words(folders, damaged):
    ok = {n for n in folders if "." not in n} - set(damaged)
    return sorted(ok)[-1] if ok else ""


@wrong("11.2", "takes a damaged one")
def takes_a_damaged_one(folders, damaged):
    ok = [n for n in folders if n[-4:] != ".tmp"]
    return max(ok, key=lambda n: int(n[5:])) if ok else ""


@wrong("11.2", "takes the last of the list")
def takes_the_last_of_the_list(folders, damaged):
    for n in reversed(folders):
        if n not in damaged and not n.endswith("tmp"):
            return n
    return ""


@wrong("12.1", "counts a whole interval")
def counts_a_whole_interval(save, between):
    return (save * between) ** 0.5


@wrong("12.1", "forgets the root")
def forgets_the_root_of_a_product(save, between):
    return 2 * between * save


@wrong("12.2", "takes the checkpoint of step `at` for written")
def takes_the_checkpoint_for_written(last, every, at, kills):
    return last + kills * (at % every)


@wrong("12.2", "begins anew")
def begins_anew(last, every, at, kills):
    for _ in range(kills):
        last += at
    return last
