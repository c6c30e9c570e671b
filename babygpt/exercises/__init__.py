"""Checks for the exercises in the notebooks, written by hand.

`check("01.2", answer)` is in `checker`. What an answer is compared with is in a file
for each lesson; a lesson's file puts its exercises into `EXERCISES`.
"""

from babygpt.exercises import (  # noqa: F401 (they fill EXERCISES)
    lesson_00,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_10,
    lesson_11,
    lesson_12,
)
from babygpt.exercises.checker import EXERCISES, Exercise, check

__all__ = ["EXERCISES", "Exercise", "check"]
