"""Compare an answer with a slow and obvious specification, and name its mistake.

`check("01.2", answer)` calls `answer` and the specification on many arguments, small
ones first. A wrong answer is then compared with functions that make the typical
mistakes: where it behaves like one of them on all arguments, the verdict says which.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from types import NoneType
from typing import Any

import numpy as np
import torch


def returned(f: Callable, *args) -> Any:
    """What `f` returns: this is compared where an exercise does not say otherwise."""
    return f(*args)


@dataclass(frozen=True)
class Exercise:
    """What `check` compares an answer with."""

    spec: Callable  # the right function, as plainly as it can be said
    cases: Callable[[], Iterator[tuple]]  # its arguments, small ones first
    mistakes: dict[str, Callable]  # what to tell the reader → a function that errs so
    observe: Callable = returned  # called with a function and arguments


EXERCISES: dict[str, Exercise] = {}


def check(number: str, answer: Callable) -> None:
    """Print a verdict on an answer to exercise `number`, such as "03.2".

    The answer is right, makes a mistake that has a name, or differs somewhere.
    Never raises.
    """
    try:
        print(f"{number} {verdict(number, answer)}")
    except Exception as e:  # whatever a reader hands in, the notebook goes on
        print(f"{number} ✗ could not be checked: {type(e).__name__}: {e}")


def verdict(number: str, answer: Callable) -> str:
    if number not in EXERCISES:
        return f"? no such exercise; there are {', '.join(EXERCISES)}"
    exercise = EXERCISES[number]
    cases = list(exercise.cases())
    seen = [outcome(exercise, answer, args) for args in cases]
    right = [outcome(exercise, exercise.spec, args) for args in cases]
    wrong = [i for i in range(len(cases)) if not same(seen[i], right[i])]
    if not wrong:
        return f"✓ right, {len(cases)} cases"
    first = wrong[0]
    if seen[first] is None or isinstance(seen[first], NotImplementedError):
        return "… nothing is returned yet: replace the … in the function"
    for message, mistake in exercise.mistakes.items():
        made = (outcome(exercise, mistake, args) for args in cases)
        if all(map(same, seen, made)):
            return f"✗ {message}"
    return f"✗ {difference(cases[first], seen[first], right[first])}"


def difference(args: tuple, seen: Any, right: Any) -> str:
    """Where an answer differs from the specification: the arguments and both outcomes.

    A dict on both sides says which properties hold; those that should are named.
    """
    shown = ", ".join(map(short, args))
    if isinstance(seen, dict) and isinstance(right, dict):
        broken = [name for name in right if seen[name] != right[name]]
        return f"for ({shown}) it does not hold: {'; '.join(broken)}"
    return f"for ({shown}) expected {short(right)}, got {short(seen)}"


def outcome(exercise: Exercise, f: Callable, args: tuple) -> Any:
    """What comes of calling `f` on a copy of `args`; an exception is an outcome too."""
    try:
        with np.errstate(all="ignore"):
            return exercise.observe(f, *deepcopy(args))
    except Exception as e:
        return e


EXACT = str, dict, NoneType  # compared by ==, not as numbers


def same(a: Any, b: Any) -> bool:
    """Whether two outcomes agree: numbers nearly, exceptions by their type."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b)
    if isinstance(a, EXACT) or isinstance(b, EXACT):
        return type(a) is type(b) and a == b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        a, b = numbers(a), numbers(b)
    except (TypeError, ValueError):
        return False
    if a.shape != b.shape:
        return False
    return np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def numbers(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach()
    return np.asarray(x, dtype=np.float64)


def short(x: Any) -> str:
    """How an argument or an outcome stands in a verdict."""
    if isinstance(x, Exception):
        return f"{type(x).__name__}: {x}"
    if isinstance(x, torch.nn.Module):
        return "a model"
    if isinstance(x, (torch.Tensor, np.ndarray)):
        shape = tuple(x.shape)
        if np.prod(shape) > 12:
            return f"a {shape} array"
        x = x.tolist()
    if isinstance(x, float):
        return f"{x:.6g}"
    if isinstance(x, (list, tuple)):
        return "[" + ", ".join(map(short, x)) + "]"
    text = x.__name__ if callable(x) else repr(x)
    return text if len(text) <= 80 else text[:77] + "…"
