"""The rules of the house, from the sources: who imports whom, how long things get."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOTEBOOKS, ROOT

PACKAGE = ROOT / "babygpt"
MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
WIDTH, MODULE_LINES, CELL_LINES = 88, 400, 30


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


NAMES = {module_name(p): p for p in MODULES}


def imported(path: Path) -> list[tuple[str, str]]:
    """(module of the package, name taken from it or "") for each import."""
    here = module_name(path)
    package = here if path.name == "__init__.py" else here.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name in NAMES]
        if not isinstance(node, ast.ImportFrom):
            continue
        base = node.module or ""
        if node.level:
            above = package.split(".")
            above = above[: len(above) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            if f"{base}.{alias.name}" in NAMES:
                found.append((f"{base}.{alias.name}", ""))
            elif base in NAMES:
                found.append((base, alias.name))
    return found


def arrows() -> dict[str, set[str]]:
    """Each module with those that it imports; a package's own parts are not counted."""
    return {m: {to for to, _ in imported(p)} - {m} for m, p in NAMES.items()}


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen, todo = set(), [start]
    while todo:
        for module in graph[todo.pop()] - seen:
            seen.add(module)
            todo.append(module)
    return seen


def test_imports_run_one_way():
    graph = arrows()
    assert {m for m in graph if m in reached(m, graph)} == set()


def test_the_engine_knows_no_lesson_above_it():
    """An engine room may use lessons, but none that uses this room."""
    graph = arrows()
    rooms = [m for m in graph if m.startswith("babygpt.engine.")]
    assert rooms
    for room in rooms:
        users = {m for m in graph if room in graph[m]}
        assert not users & reached(room, graph), room


def borrowed(path: Path) -> set[str]:
    """The names by which a module calls other modules of the package."""
    modules = {m.rpartition(".")[2] for m, name in imported(path) if not name}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            named = [a for a in node.names if a.name in modules]
            found |= {a.asname or a.name for a in named}
        elif isinstance(node, ast.Import):
            found |= {a.asname for a in node.names if a.name in NAMES and a.asname}
    return found


def attributes_of_borrowed(path: Path, nodes) -> list[str]:
    """`module.name` where `module` is one of the package's."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in borrowed(path):
                found.append(f"{node.value.id}.{node.attr}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_uses_public_names_of_others(path):
    taken = [n for _, n in imported(path) if n != "__version__"]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken += [
        a.rpartition(".")[2] for a in attributes_of_borrowed(path, ast.walk(tree))
    ]
    assert [n for n in taken if n.startswith("_")] == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_swaps_no_names_of_others(path):
    text = path.read_text(encoding="utf-8")
    assert "unittest.mock" not in text and "monkeypatch" not in text
    assigned = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign):
            assigned += node.targets
    assert attributes_of_borrowed(path, assigned) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_is_of_a_size_to_be_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_an_exported_cell_is_of_a_size_to_be_read(path):
    exported = [c for c in code_cells(path) if c.startswith("#| export")]
    assert [c[:80] for c in exported if len(c.splitlines()) - 1 > CELL_LINES] == []


def own_lines(path: Path) -> list[str]:
    """A file's lines, without the head that nbdev writes into an exported module."""
    if path.suffix == ".ipynb":
        return "\n".join(code_cells(path)).splitlines()
    text = path.read_text(encoding="utf-8")
    return text[text.find("\n# %% ../") + 1 :].splitlines()


@pytest.mark.parametrize("path", [*MODULES, *TESTS, *NOTEBOOKS], ids=lambda p: p.stem)
def test_no_line_is_wider_than_the_screen(path):
    assert [line for line in own_lines(path) if len(line) > WIDTH] == []


@pytest.mark.parametrize("command", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "."]
    done = subprocess.run(ruff, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
