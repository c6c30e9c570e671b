"""The forms of the stories' words, asked of Morfeusz2 (SGJP): `python tests/make_forms.py` writes babygpt/data/bajki_forms.json and the dictionary's licence.

Run it after a change of the lists or plots in bajki.txt. A word that has no forms, or that two lists need with two
genders, is reported and nothing is written.
"""

import json
import re
import sys
from pathlib import Path

import morfeusz2

DATA = Path(__file__).parent.parent / "babygpt/data"
CASES = dict(zip("MDCBNLW", ("nom", "gen", "dat", "acc", "inst", "loc", "voc")))
ADJECTIVES, PLAIN = ("barwa", "smak", "cecha", "wiek"), ("barwa", "smak", "cecha", "wiek", "pora", "tło")
# the genders that a list's words may have, the likelier first; :m2 after a word overrules it
GENDERS = {"dziewczynki": "f", "chłopcy": "m1", "ona": "f", "on": "m2 m1", "dorosła": "f", "dorosły": "m1"}
# third-person pronouns: m, f, n, and the plural with and without a man among them; n after the case: after a preposition
ON = {
    "M": "on ona ono oni one", "D": "go jej go ich ich", "C": "mu jej mu im im", "B": "go ją je ich je", "N": "nim nią nim nimi nimi", "L": "nim niej nim nich nich",
    "Dn": "niego niej niego nich nich", "Cn": "niemu niej niemu nim nim", "Bn": "niego nią nie nich nie", "Nn": "nim nią nim nimi nimi",
}  # fmt: skip
MORFEUSZ = morfeusz2.Morfeusz()


def generate(lemma):
    """(form, lemma, part of speech, sets of values) of every form; those marked as archaic or rare come last."""
    for form, found, tag, _, marks in sorted(MORFEUSZ.generate(lemma), key=lambda interpretation: bool(interpretation[4])):
        pos, *values = tag.split(":")
        yield form, found, pos, [set(v.split(".")) for v in values]


def noun(lemma, genders):
    """(gender, {case: form}), with Mp and Dp the nominative and genitive plural; None where a case is missing."""
    groups = {}
    for form, found, pos, values in generate(lemma):
        if pos == "subst":
            for gender in values[2]:
                forms = groups.setdefault((genders.index(gender) if gender in genders else 9, gender, found), {})
                for case, name in CASES.items():
                    for number in values[0] if name in values[1] else ():
                        forms.setdefault(case if number == "sg" else f"{case}p", form)
    whole = [(rank, gender, forms) for (rank, gender, _), forms in sorted(groups.items()) if rank < 9 and forms.keys() >= CASES.keys()]
    # a common noun rather than a surname of the same spelling; a pet name calls out Zuziu rather than Zuzio
    whole.sort(key=lambda g: (g[0], g[2]["M"][0].islower() != lemma[0].islower(), not g[2]["W"].endswith("iu")))
    return (whole[0][1], whole[0][2]) if whole else None


def adjective(lemma):
    """{(gender, case): form}; pm and pf are the plurals. A superlative is looked up under its positive."""
    positive, degree = ("dobry", "sup") if lemma == "najlepszy" else (lemma, "pos")
    out = {}
    for form, _, pos, values in generate(positive):
        if pos == "adj" and degree in values[3]:
            for case, name in CASES.items():
                if name in values[1]:
                    for gender in values[2]:
                        out.setdefault((gender if values[0] == {"sg"} else "pm" if gender == "m1" else "pf", case), form)
    return out


def verb(lemma):
    """{gender: past form}, and with +ja and +ty the first and second person: the stem that takes endings is marked agl."""
    out, stem = {}, {}
    for form, _, pos, values in generate(lemma):
        if pos == "praet":
            for gender in values[1]:
                key = gender if values[0] == {"sg"} else "pm" if gender == "m1" else "pf"
                (stem if {"agl"} in values else out).setdefault(key, form)
    for gender in ("m1", "m2", "m3", "f", "n") if out else ():
        base = stem.get(gender) or out[gender]
        link = "" if base[-1] in "aeo" else "e"
        out |= {f"{gender}+ja": f"{base}{link}m", f"{gender}+ty": f"{base}{link}ś"}
    return out


def make(text):
    """(what bajki_forms.json holds, what is wrong) for the text of bajki.txt."""
    head, plots = text.split("\n== ", 1)
    lists = {}
    for name, body in re.findall(r"^= (.+)\n((?:[^=#\n].*\n)+)", head, re.M):
        rows = body.replace("\n", " ").split(";") if ";" in body else body.split()
        for i, column in enumerate(name.split("·")):
            lists.setdefault(column, []).extend(row.split("|")[i].strip() for row in rows)
    specs = set(re.findall(r"\{\w+:([^{}]+)\}", plots)) - CASES.keys() - {"gdzie", "dokąd", "skąd"}
    verbs = {s.partition("+")[0] for s in specs if "+" not in s or s.endswith(("+ja", "+ty"))}
    listed = {w for name in ADJECTIVES for w in lists[name]}
    agree, wrong, nouns = {g: {} for g in ("m1", "m2", "m3", "f", "n", "pm", "pf")}, [], {}

    for lemma in sorted(verbs):
        forms = verb(lemma)
        wrong += [] if forms else [f"no past forms of {lemma}"]
        for gender in agree:
            agree[gender] |= {lemma + person: forms[gender + person] for person in ("", "+ja", "+ty") if gender + person in forms}
    for lemma in sorted(listed | {s.partition("+")[0] for s in specs if "+" in s and not s.endswith(("+ja", "+ty"))} - {"on"}):
        forms = adjective(lemma)
        wrong += [] if forms else [f"no adjective {lemma}"]
        for (gender, case), form in sorted(forms.items()):
            if lemma not in listed or (case != "W" and gender not in ("pm", "pf")):
                agree[gender][f"{lemma}+{case}"] = form
    for case, forms in ON.items():
        m, f, n, pm, pf = forms.split()
        for gender, form in zip(agree, (m, m, m, f, n, pm, pf)):
            agree[gender][f"on+{case}"] = form

    food = {w.partition(":")[0] for w in lists["jedzenie"]}
    for name, words in lists.items():
        for word in words if name not in PLAIN else ():
            lemma, _, gender = word.partition(" +")[0].split()[-1].partition(":")
            found = noun(lemma, (gender or GENDERS.get(name.split()[0], "m3 f n m2 m1")).split())
            if not found or nouns.get(lemma, found)[0] != found[0]:
                wrong.append(f"{lemma} ({name}): " + ("not a noun with all its cases" if not found else "in two genders"))
                continue
            nouns[lemma] = [found[0], {k: v for k, v in sorted(found[1].items()) if k in CASES or (k in ("Mp", "Dp") and lemma in food)}]
    return {"nouns": nouns, "agree": agree}, wrong


if __name__ == "__main__":
    made, wrong = make((DATA / "bajki.txt").read_text(encoding="utf-8"))
    if wrong:
        sys.exit("\n".join(wrong))
    (DATA / "SGJP-LICENSE.txt").write_text(MORFEUSZ.dict_copyright(), encoding="utf-8")
    (DATA / "bajki_forms.json").write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
