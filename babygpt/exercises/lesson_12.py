"""Checks for the exercises of lesson 12: rehearsal."""

import math

from babygpt.exercises.checker import EXERCISES, Exercise

# ---- 12.1 The best interval


def best_interval(save, between):
    def wasted(interval):
        return save / interval + interval / 2 / between

    # The curve falls, then rises: look at two points, keep the side of the lower one.
    low, high = 1e-3, 1e7
    for _ in range(200):
        third = (high - low) / 3
        if wasted(low + third) < wasted(high - third):
            high = high - third
        else:
            low = low + third
    return low


def for_a_whole_interval(save, between):
    return math.sqrt(save * between)


def without_root(save, between):
    return 2 * save * between


def divided_by_2(save, between):
    return math.sqrt(save * between / 2)


def mean_of_times(save, between):
    return (save + between) / 2


def best_interval_cases():
    yield 1.0, 200.0
    yield 10.0, 3_600.0
    yield 10.0, 86_400.0
    yield 45.0, 21_600.0


EXERCISES["12.1"] = Exercise(
    best_interval,
    best_interval_cases,
    mistakes={
        "counts a whole interval for a fault: "
        "on average it comes in the middle": for_a_whole_interval,
        "forgets the root: that is a product of two times": without_root,
        "divides by 2 where it should multiply": divided_by_2,
        "takes the mean of the two times": mean_of_times,
    },
)


# ---- 12.2 What a kill costs


def computed_steps(last, every, at, kills):
    computed = 0
    step = 0
    safe = 0  # the step of the last checkpoint
    while step < last:
        step += 1
        computed += 1
        if step == at and kills:
            kills -= 1
            step = safe
        elif step % every == 0:
            safe = step
    return computed


def after_checkpoint_at_kill(last, every, at, kills):
    return last + kills * (at % every)


def from_the_start_again(last, every, at, kills):
    return last + kills * at


def one_kill(last, every, at, kills):
    return computed_steps(last, every, at, min(kills, 1))


def whole_interval_again(last, every, at, kills):
    return last + kills * every


def without_repeated(last, every, at, kills):
    return last


def repeated_only(last, every, at, kills):
    return computed_steps(last, every, at, kills) - last


def computed_steps_cases():
    yield 12, 4, 7, 1
    yield 12, 4, 7, 2
    yield 12, 4, 3, 1
    yield 12, 4, 8, 1
    yield 1_000, 100, 999, 5
    yield 10, 1, 5, 3
    yield 10, 4, 5, 0


EXERCISES["12.2"] = Exercise(
    computed_steps,
    computed_steps_cases,
    mistakes={
        "takes the checkpoint of step `at` for written: "
        "the run died before it": after_checkpoint_at_kill,
        "begins anew after each kill: there may be a checkpoint": from_the_start_again,
        "counts one kill only": one_kill,
        "counts a whole interval for each kill": whole_interval_again,
        "forgets the steps that are computed again": without_repeated,
        "counts only the steps that are computed again": repeated_only,
    },
)
