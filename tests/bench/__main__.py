"""Measure what babygpt does side by side with its peers.

`python tests/bench [data generate hellaswag train] [--rounds 5]` prints a Markdown
table. A ratio above 1 says how many times faster ours is; both run in turns in one
process, on all cores.
"""

import argparse
import importlib
import logging
import platform
from importlib.metadata import version
from pathlib import Path

import datasets
import side_by_side
import torch

FILES = Path(__file__).parent.glob("bench_*.py")
NAMES = sorted(path.stem.removeprefix("bench_") for path in FILES)
PEERS = ("torch", "transformers", "lm_eval", "tiktoken", "datasets", "datatrove")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python tests/bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which: {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="times that each of the two runs"
    )
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        choices = ", ".join(NAMES)
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {choices}")
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    versions = [f"{peer} {version(peer)}" for peer in PEERS]
    machine = platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads"
    print(f"{', '.join(versions)}; {machine}, {threads}, {args.rounds} rounds\n")
    print(side_by_side.HEAD, flush=True)
    for name in args.names or NAMES:
        for case in importlib.import_module(f"bench_{name}").cases():
            print(side_by_side.measure(case, args.rounds).row(), flush=True)
