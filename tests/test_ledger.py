"""The ledger: a number in prose is tied to what it comes from.

Two places are strict, the head of a notebook with its "What to remember", and the whole
index: there every number and every factor in words needs a tie. Elsewhere a percentage,
a factor or an "N of M" in digits does. A number is tied where an output or a table of
its own section shows it, or where it stands in a link whose target shows it. The target
is a section of a notebook, and the link's title quotes the output or table there; or it
is an address outside.
"""

import html
import json
import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NamedTuple

import pytest
from conftest import NOTEBOOKS

NUMBER = re.compile(r"(?<![\w.,])[−-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
LINK = re.compile(r'(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)(?:\s+"([^"]*)")?\)')
HEADING = re.compile(r"#{1,6} +(.*?) *$")

# What is no measurement: names of models and devices, formats, years, confidence.
NAMES = re.compile(
    r"GPT-2|\d+M\b|\d+ ?× ?A\d+|\b[AHLT]\d+\b|FineWeb-2|HellaSwag-PL|FLORES-200"
    r"|UTF-8|\d+-bit|Python 3\.\d+|Gemma 2|95 % (?:confidence )?intervals?"
    r"|\b(?:19|20)\d\d\b|[Nn]otebooks? \d\d(?: and \d\d)*|\b\d\d_\w+"
    r"|^\| \d+ \||\*\*Time on a laptop:\*\*[^*]*",
    re.M,
)
RATIO = re.compile(
    r"[\d.,]*\d ?%|(?<![\w.,])[\d.,]*\d(?= times\b)|(?<![\w.,])[\d.,]*\d ?×(?! ?\d)"
    r"|(?<![\w.,])[\d.,]*\d of (?:the )?[\d.,]*\d"
)
PART = "half|third|quarter|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth"
COUNT = "two|three|four|five|six|seven|eight|nine|ten|hundred|hundreds of|thousands of"
WORDS = re.compile(
    rf"\b(?:(?:an?|one|two|three|not quite a) (?:{PART})s?|half (?:of|the|as|again)"
    rf"|twice|(?:{COUNT}) times|(?:two|three|four|five|six|eight|ten)fold)\b"
)


class Section(NamedTuple):
    """What stands under a heading: prose, and what its numbers may come from."""

    heading: str
    level: int
    prose: list[str]
    evidence: list[str]


def shown(output: dict) -> str:
    """The text of a cell's output."""
    data = output.get("data", {})
    text = "".join(output.get("text", data.get("text/plain", "")))
    if "text/html" in data:
        marked = re.sub(r"<[^>]*>", " ", "".join(data["text/html"]))
        text += html.unescape(marked)
    return text + "".join(data.get("text/markdown", ""))


@lru_cache
def sections(path) -> list[Section]:
    """A notebook, heading by heading."""
    found = [Section("", 0, [], [])]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "markdown":
            found[-1].evidence.extend(shown(o) for o in cell.get("outputs", []))
            continue
        fenced = False
        for line in "".join(cell["source"]).split("\n"):
            if line.startswith("```"):
                fenced = not fenced
            elif fenced:
                found[-1].evidence.append(line)
            elif heading := HEADING.match(line):
                level = len(line) - len(line.lstrip("#"))
                found.append(Section(heading[1], level, [], []))
            else:
                found[-1].prose.append(line)
                if line.startswith("|"):
                    found[-1].evidence.append(line)
    return found


def anchor(heading: str) -> str:
    """The name by which JupyterLab links to a heading."""
    return re.sub(r"[`*]", "", heading).replace(" ", "-")


def plain(text: str) -> str:
    """Without marks of emphasis and code, with single spaces: what a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"[*`]", "", text)).strip()


def numbers(text: str) -> list[Decimal]:
    """The numbers of a text, without their signs."""
    found = []
    for match in NUMBER.findall(text.replace("\u2009", "")):
        try:
            found.append(abs(Decimal(match.replace(",", "").replace("−", "-"))))
        except InvalidOperation:
            pass
    return found


def rounds_to(exact: Decimal, said: Decimal) -> bool:
    """Whether a number, rounded to the digits of another, is that one."""
    digits = max(0, -said.as_tuple().exponent)
    return abs(exact - said) * 2 <= Decimal(10) ** -digits


def percentages(text: str) -> list[Decimal]:
    """What a text gives in per cent, or as a share between 0 and 1."""
    shares = [100 * n for n in numbers(text) if n < 1]
    marked = [m.group(1) for m in re.finditer(r"([\d.,]*\d) ?%", text)]
    return shares + [n for m in marked for n in numbers(m)]


def shows(evidence: str, claim: str) -> bool:
    """Whether each number of a claim stands in the evidence, maybe rounded."""
    for match in re.finditer(rf"({NUMBER.pattern})( ?%)?", claim):
        (said,) = numbers(match[1])
        there = percentages(evidence) if match[2] else numbers(evidence)
        if not any(rounds_to(n, said) for n in there):
            return False
    return True


def strict(path, section: Section) -> bool:
    return (
        path.stem == "index"
        or section.level < 2
        or section.heading == "What to remember"
    )


def claims(text: str, headline: bool) -> list[str]:
    """The parts of a text, without its links, that need a tie."""
    text = NAMES.sub(" ", text)
    found = [m.group() for m in RATIO.finditer(text)]
    if headline:
        found += [n for n in NUMBER.findall(text) if not re.fullmatch(r"\d", n)]
        found += [m.group() for m in WORDS.finditer(text)]
    return found


def prose_of(section: Section) -> str:
    """A section's prose without code."""
    return re.sub(r"`[^`]*`", " ", "\n".join(section.prose))


def untied(path, section: Section) -> list[str]:
    """The claims that stand neither in a link nor in an output of their section."""
    headline = strict(path, section)
    lines = prose_of(section).split("\n")
    if not headline:  # a table is evidence itself
        lines = [line for line in lines if not line.startswith("|")]
    bare = LINK.sub(" ", "\n".join(lines))
    evidence = [] if path.stem == "index" else section.evidence
    there = "\n".join(evidence)
    return [c for c in claims(bare, headline) if not numbers(c) or not shows(there, c)]


def broken(path, text: str, target: str, quote: str | None) -> str:
    """Why a link that carries a number does not show it; "" where it does."""
    if "://" in target:
        return "" if quote else "no title that says what stands there"
    file, _, name = target.partition("#")
    there = path.parent / file if file else path
    if there.suffix != ".ipynb":
        return "" if there.exists() else f"no file {file}"
    found = [s for s in sections(there.resolve()) if anchor(s.heading) == name]
    if not found:
        return f"{file or path.name} has no heading {name!r}"
    if not quote:
        return "no title that quotes the output there"
    evidence = plain("\n".join(line for s in found for line in s.evidence))
    if plain(quote) not in evidence:
        return f"{quote!r} stands in no output or table there"
    return (
        ""
        if shows(quote, NAMES.sub(" ", text))
        else f"{quote!r} does not show its numbers"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_numbers_are_tied(path):
    loose = [(s.heading, c) for s in sections(path) for c in untied(path, s)]
    assert not loose, "\n".join(f"{h}: {c!r}" for h, c in loose)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_ties_hold(path):
    problems = []
    for section in sections(path):
        for text, target, quote in LINK.findall("\n".join(section.prose)):
            named = re.fullmatch(r"\d\d", text)  # [05](05_train.ipynb) makes no claim
            if quote or (claims(text, strict(path, section)) and not named):
                problems.append((text, broken(path, text, target, quote)))
    assert not [p for p in problems if p[1]], "\n".join(
        f"[{t}]: {p}" for t, p in problems if p
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_to_headings_lead_somewhere(path):
    for section in sections(path):
        for _, target, _ in LINK.findall("\n".join(section.prose)):
            file, mark, name = target.partition("#")
            if not mark or "://" in target:
                continue
            there = path.parent / file if file else path
            assert name in [anchor(s.heading) for s in sections(there.resolve())], (
                target
            )


def notebook(tmp_path, prose: str, output: str = ""):
    """A notebook with a section of its own: prose, and a cell with an output."""
    code = {
        "cell_type": "code",
        "outputs": [{"output_type": "stream", "text": [output]}],
    }
    cells = [{"cell_type": "markdown", "source": [f"# N\n\n## Here\n\n{prose}"]}, code]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    sections.cache_clear()
    return path


@pytest.mark.parametrize(
    "prose, output, loose",
    [
        ("It is 12 % worse.", "0.1204 of all", []),
        ("It is 12 % worse.", "26.1 % with 12 layers", ["12 %"]),
        ("27.7 times as fast", "ratio 27.74", []),
        ("27.7 times as fast", "ratio 27.76", ["27.7"]),
        ("0.33 of 5.24 billion", "0.3277 of 5.2429", []),
        ("the 95 % interval of GPT-2 124M", "", []),
        ("`12 %` in code", "", []),
    ],
)
def test_the_ledger_sees_numbers_that_do_not_stand_in_an_output(
    tmp_path, prose, output, loose
):
    path = notebook(tmp_path, prose, output)
    assert untied(path, sections(path)[-1]) == loose


@pytest.mark.parametrize(
    "target, quote, problem",
    [
        ("#Here", "12.04 %", ""),
        ("#Here", "12.9 %", "stands in no output"),
        ("#There", "12.04 %", "no heading"),
        ("#Here", "of all", "does not show"),
        ("#Here", None, "no title"),
        ("https://example.org/log", None, "no title"),
    ],
)
def test_the_ledger_sees_links_that_do_not_show_their_number(
    tmp_path, target, quote, problem
):
    path = notebook(tmp_path, "", "12.04 % of all")
    found = broken(path, "12 % worse", target, quote)
    assert problem in found if problem else not found


def test_heads_and_last_words_are_strict(tmp_path):
    path = notebook(tmp_path, "A run of 4,096 ids takes half of the time.")
    here = sections(path)[-1]
    assert untied(path, here) == []
    remember = here._replace(heading="What to remember")
    assert untied(path, remember) == ["4,096", "half of"]
