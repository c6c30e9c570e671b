"""Checks for the exercises of lesson 08: experiments."""

import math

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 08.1 A difference and its interval


def differences(a, b):
    return [y - x for x, y in zip(a, b)]


def mean_of(values):
    return sum(values) / len(values)


def spread(values, dof):
    mean = mean_of(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / dof)


def interval(values, t=4.303, dof=2):
    """The mean of three values and how far from it the true mean may be."""
    return mean_of(values), t * spread(values, dof) / math.sqrt(len(values))


def difference(a, b):
    return interval(differences(a, b))


def with_1_96(a, b):
    return interval(differences(a, b), t=1.96)


def divided_by_n(a, b):
    return interval(differences(a, b), dof=3)


def of_a_single_run(a, b):
    apart = differences(a, b)
    return mean_of(apart), 4.303 * spread(apart, dof=2)


def unpaired(a, b):
    mean_a, half_a = interval(a)
    mean_b, half_b = interval(b)
    return mean_b - mean_a, math.sqrt(half_a**2 + half_b**2)


def other_way_round(a, b):
    return difference(b, a)


def difference_cases():
    yield [1.20, 1.22, 1.18], [1.10, 1.13, 1.09]
    yield [0.90, 0.95, 0.91], [0.92, 0.93, 0.94]
    yield [1.0, 2.0, 3.0], [0.5, 1.5, 2.5]
    yield [1.31, 1.27, 1.33], [1.25, 1.30, 1.21]


EXERCISES["08.1"] = Exercise(
    difference,
    difference_cases,
    mistakes={
        "takes 1.96, which is for many values: with three it is 4.303": with_1_96,
        "divides by n: with so few values the spread is then too small, "
        "divide by n − 1": divided_by_n,
        "gives the spread of a single run: "
        "the mean of three is √3 times as sure": of_a_single_run,
        "forgets that the runs are pairs: "
        "what a seed does to both arms cancels": unpaired,
        "subtracts the other way round: better must be negative": other_way_round,
    },
)


# ---- 08.2 The next rate of a sweep


def next_to_try(best, lowest, highest):
    """Twice the best rate if it is the highest, half of it if the lowest, else 0."""
    if best == highest:
        return 2 * best
    if best == lowest:
        return best / 2
    return 0.0


def next_rate(found):
    best = None
    for lr, bpb in found.items():
        if not math.isnan(bpb) and (best is None or bpb < found[best]):
            best = lr
    return next_to_try(best, min(found), max(found))


def always_wider(found):
    return 2 * max(found)


def upwards_only(found):
    wider = next_rate(found)
    return wider if wider > max(found) else 0.0


def ends_by_order(found):
    rates = list(found)
    ended_well = [lr for lr in rates if not math.isnan(found[lr])]
    best = min(ended_well, key=found.get)
    return next_to_try(best, rates[0], rates[-1])


def nan_is_best(found):
    ended_in_nan = [lr for lr in found if math.isnan(found[lr])]
    best = ended_in_nan[0] if ended_in_nan else min(found, key=found.get)
    return next_to_try(best, min(found), max(found))


def next_rate_cases():
    yield ({1e-3: 1.5, 2e-3: 1.2, 4e-3: 1.3},)
    yield ({1e-3: 1.5, 2e-3: 1.3, 4e-3: 1.2},)
    yield ({1e-3: 1.2, 2e-3: 1.3, 4e-3: 1.4},)
    yield ({4e-3: 1.2, 1e-3: 1.3, 2e-3: 1.25},)
    yield ({1e-3: 1.5, 2e-3: 1.2, 4e-3: math.nan},)
    yield ({1e-3: 1.2, 2e-3: math.nan, 4e-3: math.nan},)


EXERCISES["08.2"] = Exercise(
    next_rate,
    next_rate_cases,
    mistakes={
        "widens the sweep although the best rate "
        "has neighbours on both sides": always_wider,
        "never looks below the smallest rate": upwards_only,
        "takes the order of the dict for the order of the rates": ends_by_order,
        "takes a run that ended in NaN for the best": nan_is_best,
    },
)


# ---- 08.3 Tokens to a goal


def crossings(curve, goal):
    """Where the straight lines between the points come down to the goal."""
    found = []
    for (n, a), (m, b) in zip(curve, curve[1:]):
        if a > goal >= b:
            found.append(n + (m - n) * (a - goal) / (a - b))
    return found


def tokens_to(curve, goal):
    found = crossings(curve, goal)
    return found[0] if found else math.inf


def next_point(curve, goal):
    for n, bpb in curve:
        if bpb <= goal:
            return float(n)
    return math.inf


def last_crossing(curve, goal):
    found = crossings(curve, goal)
    return found[-1] if found else math.inf


def last_point_if_never(curve, goal):
    found = crossings(curve, goal)
    return found[0] if found else float(curve[-1][0])


def tokens_to_cases():
    yield [(0, 2.0), (100, 1.0)], 1.5
    yield [(0, 3.0), (100, 2.0), (200, 1.5), (300, 1.25)], 1.4
    yield [(0, 3.0), (100, 2.0), (200, 1.5)], 2.0
    yield [(0, 3.0), (100, 1.0), (200, 1.5), (300, 0.5)], 1.2
    yield [(0, 3.0), (100, 2.0)], 1.0


EXERCISES["08.3"] = Exercise(
    tokens_to,
    tokens_to_cases,
    mistakes={
        "takes the first point below: the curve was there before": next_point,
        "takes the last time that the curve comes down to the goal": last_crossing,
        "gives the last point where the goal is never reached": last_point_if_never,
    },
)
