"""Time two ways of doing the same work, in turns, in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A goal and the two that are compared.

    What they return is ignored; that it is right is for the tests to show, or for
    `note`.
    """

    what: str  # the work, for people
    peer_name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    work: float  # units of it
    unit: str
    goal: float  # the ratio that was aimed at
    note: str = ""
    # times that ours is done in a round and its time divided: where it is too short to
    # be timed beside a long peer
    often: int = 1


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
        c = self.case
        ours = c.work / statistics.median(self.ours_s)
        peer = c.work / statistics.median(self.peer_s)
        low, mid, high = self.ratios
        ratio = f"{low:.2f} / **{mid:.2f}** / {high:.2f}"
        cells = [c.what, c.peer_name, f"{ours:,.1f}", f"{peer:,.1f}", c.unit]
        cells += [ratio, f"≥ {c.goal:.2f}", c.note]
        return f"| {' | '.join(cells)} |"


HEAD = """\
| work | peer | ours | peer's | unit | ratio: min / **median** / max | goal | |
|---|---|---|---|---|---|---|---|"""


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes, once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(case: Case, rounds: int) -> Result:
    """Run both once to warm up, then in turns.

    Whoever goes first changes every round, so that neither always finds the warmer
    machine.
    """
    case.ours()
    case.peer()
    ours_s, peer_s = [], []

    def ours():
        for _ in range(case.often):
            case.ours()

    for i in range(rounds):
        if i % 2:
            ours_s.append(seconds(ours) / case.often)
            peer_s.append(seconds(case.peer))
        else:
            peer_s.append(seconds(case.peer))
            ours_s.append(seconds(ours) / case.often)
    return Result(case, ours_s, peer_s)
