"""The forms of the stories' words, asked of Morfeusz2 (SGJP).

`python tests/make_forms.py` writes babygpt/data/bajki_forms.json and the dictionary's
licence. Run it after a change of the lists or plots in bajki.txt. A word that has no
forms, or that two lists need with two genders, is reported and nothing is written.
"""

import json
import re
import sys
from pathlib import Path

import morfeusz2

DATA = Path(__file__).parent.parent / "babygpt/data"
CASES = dict(zip("MDCBNLW", ("nom", "gen", "dat", "acc", "inst", "loc", "voc")))
ADJECTIVES = ("barwa", "smak", "cecha", "wiek")
PLAIN = (*ADJECTIVES, "pora", "tło")
# The genders that a list's words may have, the likelier first; :m2 after a word
# overrules them.
GENDERS = {
    "dziewczynki": "f",
    "chłopcy": "m1",
    "ona": "f",
    "on": "m2 m1",
    "dorosła": "f",
    "dorosły": "m1",
}
# Third-person pronouns: m, f, n, and the plural with and without a man among them;
# n after the case: after a preposition.
ON = {
    "M": "on ona ono oni one",
    "D": "go jej go ich ich",
    "C": "mu jej mu im im",
    "B": "go ją je ich je",
    "N": "nim nią nim nimi nimi",
    "L": "nim niej nim nich nich",
    "Dn": "niego niej niego nich nich",
    "Cn": "niemu niej niemu nim nim",
    "Bn": "niego nią nie nich nie",
    "Nn": "nim nią nim nimi nimi",
}
MORFEUSZ = morfeusz2.Morfeusz()


def generate(lemma):
    """(form, lemma, part of speech, sets of values) of every form.

    Forms that are marked as archaic or rare come last.
    """
    interpretations = MORFEUSZ.generate(lemma)
    interpretations.sort(key=lambda interpretation: bool(interpretation[4]))
    for form, found, tag, _, _ in interpretations:
        pos, *values = tag.split(":")
        yield form, found, pos, [set(v.split(".")) for v in values]


def noun(lemma, genders):
    """(gender, {case: form}), with Mp and Dp the nominative and genitive plural.

    None where a case is missing.
    """
    groups = {}
    for form, found, pos, values in generate(lemma):
        if pos != "subst":
            continue
        for gender in values[2].intersection(genders):
            forms = groups.setdefault((genders.index(gender), gender, found), {})
            for case, name in CASES.items():
                if name in values[1]:
                    for number in values[0]:
                        forms.setdefault(case if number == "sg" else f"{case}p", form)

    def preference(group):
        rank, _, forms = group
        # a common noun rather than a surname of the same spelling
        other_initial = forms["M"][0].islower() != lemma[0].islower()
        # a pet name calls out Zuziu rather than Zuzio
        return rank, other_initial, not forms["W"].endswith("iu")

    whole = []
    for (rank, gender, _), forms in sorted(groups.items()):
        if forms.keys() >= CASES.keys():
            whole.append((rank, gender, forms))
    if not whole:
        return None
    _, gender, forms = min(whole, key=preference)
    return gender, forms


def agreement(number, gender):
    """The gender in the singular; pm or pf, with or without a man, in the plural."""
    if number == {"sg"}:
        return gender
    return "pm" if gender == "m1" else "pf"


def adjective(lemma):
    """{(gender, case): form}; pm and pf are the plurals.

    A superlative is looked up under its positive.
    """
    positive, degree = ("dobry", "sup") if lemma == "najlepszy" else (lemma, "pos")
    out = {}
    for form, _, pos, values in generate(positive):
        if pos != "adj" or degree not in values[3]:
            continue
        for case, name in CASES.items():
            if name in values[1]:
                for gender in values[2]:
                    out.setdefault((agreement(values[0], gender), case), form)
    return out


def verb(lemma):
    """{gender: past form}, and with +ja and +ty the first and second person.

    The stem that takes their endings is marked agl.
    """
    out, stem = {}, {}
    for form, _, pos, values in generate(lemma):
        if pos == "praet":
            forms = stem if {"agl"} in values else out
            for gender in values[1]:
                forms.setdefault(agreement(values[0], gender), form)
    for gender in ("m1", "m2", "m3", "f", "n") if out else ():
        base = stem.get(gender) or out[gender]
        link = "" if base[-1] in "aeo" else "e"
        out |= {f"{gender}+ja": f"{base}{link}m", f"{gender}+ty": f"{base}{link}ś"}
    return out


def word_lists(head):
    """{name: words} of the lists above the plots; a list may have several columns."""
    lists = {}
    for name, body in re.findall(r"^= (.+)\n((?:[^=#\n].*\n)+)", head, re.M):
        rows = body.replace("\n", " ").split(";") if ";" in body else body.split()
        for i, column in enumerate(name.split("·")):
            words = [row.split("|")[i].strip() for row in rows]
            lists.setdefault(column, []).extend(words)
    return lists


def asked_of_roles(plots):
    """(verbs, adjectives) that the plots' lines ask to agree with a role."""
    specs = set(re.findall(r"\{\w+:([^{}]+)\}", plots))
    specs -= CASES.keys() | {"gdzie", "dokąd", "skąd"}
    verbs, adjectives = set(), set()
    for spec in specs:
        is_verb = "+" not in spec or spec.endswith(("+ja", "+ty"))
        (verbs if is_verb else adjectives).add(spec.partition("+")[0])
    return verbs, adjectives - {"on"}


def make(text):
    """(what bajki_forms.json holds, what is wrong) for the text of bajki.txt."""
    head, plots = text.split("\n== ", 1)
    lists = word_lists(head)
    verbs, adjectives = asked_of_roles(plots)
    listed = {w for name in ADJECTIVES for w in lists[name]}
    agree = {g: {} for g in ("m1", "m2", "m3", "f", "n", "pm", "pf")}
    wrong, nouns = [], {}

    for lemma in sorted(verbs):
        forms = verb(lemma)
        wrong += [] if forms else [f"no past forms of {lemma}"]
        for gender in agree:
            for person in ("", "+ja", "+ty"):
                if gender + person in forms:
                    agree[gender][lemma + person] = forms[gender + person]
    for lemma in sorted(listed | adjectives):
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
        if name in PLAIN:
            continue
        default = GENDERS.get(name.split()[0], "m3 f n m2 m1")
        for word in words:
            lemma, _, gender = word.partition(" +")[0].split()[-1].partition(":")
            found = noun(lemma, (gender or default).split())
            if not found:
                wrong.append(f"{lemma} ({name}): not a noun with all its cases")
                continue
            gender, forms = found
            if lemma in nouns and nouns[lemma][0] != gender:
                wrong.append(f"{lemma} ({name}): in two genders")
                continue
            keep = CASES.keys() | ({"Mp", "Dp"} if lemma in food else set())
            nouns[lemma] = [gender, {k: forms[k] for k in sorted(forms) if k in keep}]
    return {"nouns": nouns, "agree": agree}, wrong


if __name__ == "__main__":
    made, wrong = make((DATA / "bajki.txt").read_text(encoding="utf-8"))
    if wrong:
        sys.exit("\n".join(wrong))
    (DATA / "SGJP-LICENSE.txt").write_text(MORFEUSZ.dict_copyright(), encoding="utf-8")
    (DATA / "bajki_forms.json").write_text(
        json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n",
        encoding="utf-8",
    )
