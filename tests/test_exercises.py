"""The exercises as a reader meets them.

Stubs say that they are empty, the folded solutions pass, and typical mistakes get
their names.
"""

import json
import math
import re
from inspect import signature

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F
from wrong_answers import WRONG

from babygpt.exercises import EXERCISES, check
from babygpt.exercises.checker import outcome, same

# What a notebook has imported by the time of its exercises.
NAMES = {"np": np, "torch": torch, "math": math, "F": F}
CHECK = re.compile(r'^check\("(\d\d\.\d)", (\w+)\)$', re.M)
SOLUTION = re.compile(
    r"<details><summary>Solution</summary>\n\n```python\n(.*?)```", re.S
)


def read_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def read_notebooks():
    """{number: (notebook, text with hints and solution, source of the stub's cell)}"""
    found = {}
    for path in sorted((ROOT / "nbs").glob("[01]*.ipynb")):
        cells = read_cells(path)
        for (_, text), (kind, code) in zip(cells, cells[1:]):
            call = CHECK.search(code)
            if kind == "code" and call:
                number = call[1]
                assert number not in found, f"{number} is asked twice"
                found[number] = path.stem, text, code
    return found


NOTEBOOKS = read_notebooks()


def verdict(capsys, number, answer):
    capsys.readouterr()
    check(number, answer)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith(number)
    return lines[0]


def function(source):
    """The first function that `source` defines."""
    names = dict(NAMES)
    exec(source, names)
    new = [name for name in names if name not in NAMES and not name.startswith("__")]
    return next(names[name] for name in new if callable(names[name]))


def empty(number):
    code = NOTEBOOKS[number][2]
    return function(re.sub(r"^(from babygpt.*|check\(.*)$", "", code, flags=re.M))


def solution(number):
    return function(SOLUTION.search(NOTEBOOKS[number][1])[1])


def test_every_exercise_is_asked_once_and_in_its_notebook():
    assert NOTEBOOKS.keys() == EXERCISES.keys()
    stems = [stem for stem, _, _ in NOTEBOOKS.values()]
    for number, stem in zip(NOTEBOOKS, stems):
        assert number[:2] == stem[:2]
    for stem in stems:
        assert 2 <= stems.count(stem) <= 4
    lessons = {number[:2] for number in EXERCISES}
    assert lessons >= {f"{i:02}" for i in (*range(9), *range(10, 13))}


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_hints_come_in_steps_and_everything_is_folded(number):
    text = NOTEBOOKS[number][1]
    folded = re.findall(r"<details><summary>(.*?)</summary>", text)
    assert folded == ["Hint 1", "Hint 2", "Solution"]
    assert text.count("</details>") == 3 and f"### {number} " in text


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_the_stub_is_told_from_an_answer(number, capsys):
    assert "… nothing is returned yet" in verdict(capsys, number, empty(number))


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_the_folded_solution_passes_and_has_the_stubs_signature(number, capsys):
    stub, solved = empty(number), solution(number)
    assert stub.__name__ == solved.__name__
    assert [*signature(stub).parameters] == [*signature(solved).parameters]
    assert "✓ right" in verdict(capsys, number, solved)


@pytest.mark.parametrize("number", EXERCISES)
def test_no_mistake_is_right_and_no_two_are_alike(number):
    exercise = EXERCISES[number]
    assert len(exercise.mistakes) >= 2
    cases = list(exercise.cases())
    seen = []
    for f in exercise.spec, *exercise.mistakes.values():
        outcomes = [outcome(exercise, f, args) for args in cases]
        for others in seen:
            assert not all(map(same, outcomes, others))
        seen.append(outcomes)


@pytest.mark.parametrize(
    "number, answer, piece", WRONG, ids=[number for number, _, _ in WRONG]
)
def test_a_typical_mistake_gets_its_name(number, answer, piece, capsys):
    told = verdict(capsys, number, answer)
    assert "✗" in told and (piece or "expected") in told


def test_two_mistakes_of_every_exercise_are_tried():
    named = [number for number, _, piece in WRONG if piece is not None]
    for number in EXERCISES:
        assert named.count(number) >= 2


JUNK = [
    None,
    7,
    "text",
    lambda: 1,
    lambda *a: 1 / 0,
    lambda *a: object(),
    lambda *a: "no",
    lambda *a: float("nan"),
    lambda *a: [None],
    lambda *a: {},
    lambda *a: (yield),
]


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_check_says_one_line_and_never_raises(number, junk, capsys):
    assert "✓" not in verdict(capsys, number, junk)


def test_a_dict_for_another_answer_is_told_like_any_other(capsys):
    told = verdict(capsys, "02.2", lambda ends, cursor: {})
    assert told == "02.2 ✗ for ([10, 20, 30], 12) expected 10, got {}"


def test_arguments_are_copies_and_an_unknown_number_is_told(capsys):
    def spoils(ids, pair, new_id):
        ids.clear()
        return []

    assert "✗" in verdict(capsys, "01.1", spoils)
    assert "✓" in verdict(capsys, "01.1", EXERCISES["01.1"].spec)
    assert "no such exercise" in verdict(capsys, "99.1", spoils)
