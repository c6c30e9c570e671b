"""Time two ways of doing the same work, in turns, in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A goal and the two that are compared. What they return is ignored; that it is right is for the tests to show, or for `note`."""

    what: str  # the work, for people
    peer_name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    work: float  # units of it
    unit: str
    goal: float  # the ratio that was aimed at
    note: str = ""
    often: int = 1  # times that ours is done in a round and its time divided: where it is too short to be timed beside a long peer


@dataclass(frozen=True)
class Result:
    case: Case
    ours_s: list[float]  # seconds, a round each
    peer_s: list[float]

    @property
    def ratios(self) -> tuple[float, float, float]:
        """How many times faster ours is, round by round: least, median, most."""
        ratios = [peer / ours for ours, peer in zip(self.ours_s, self.peer_s)]
        return min(ratios), statistics.median(ratios), max(ratios)

    def row(self) -> str:
        """A line of a Markdown table."""
        c, rate = self.case, lambda seconds: f"{c.work / statistics.median(seconds):,.1f}"
        low, mid, high = self.ratios
        return f"| {c.what} | {c.peer_name} | {rate(self.ours_s)} | {rate(self.peer_s)} | {c.unit} | {low:.2f} / **{mid:.2f}** / {high:.2f} | ≥ {c.goal:.2f} | {c.note} |"


HEAD = "| work | peer | ours | peer's | unit | ratio: min / **median** / max | goal | |\n|---|---|---|---|---|---|---|---|"


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(case: Case, rounds: int) -> Result:
    """Run both once to warm up, then in turns; whoever goes first changes every round, so that neither always finds the warmer machine."""
    case.ours(), case.peer()
    took = {"ours": [], "peer": []}
    for i in range(rounds):
        for who in ("ours", "peer") if i % 2 else ("peer", "ours"):
            times = case.often if who == "ours" else 1
            took[who].append(seconds(lambda: [getattr(case, who)() for _ in range(times)]) / times)
    return Result(case, took["ours"], took["peer"])
