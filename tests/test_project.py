"""The repository is consistent: modules, README and notebooks are what their sources make of them, and the wheel is whole."""

import json
import re
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
from conftest import ROOT, python

BIN = ROOT.__class__(sys.executable).parent  # not resolved: a venv's python is a link


def copy(tmp_path):
    """The tracked files and those that could be, without run folders and environments."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")
    for f in filter(None, files):
        if (ROOT / f).is_file():
            (tmp_path / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / f, tmp_path / f)
    return tmp_path


def contents(folder, pattern):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.glob(pattern))}


def test_modules_are_exported_from_the_notebooks(tmp_path):
    copy(tmp_path)
    exported = [p for p in (tmp_path / "babygpt").glob("*.py") if p.read_text(encoding="utf-8").startswith(('"""', "# AUTO"))]
    subprocess.run([BIN / "nbdev_export"], cwd=tmp_path, check=True)
    assert exported and contents(tmp_path, "babygpt/*.py") == contents(ROOT, "babygpt/*.py")


def test_notebooks_are_clean(tmp_path):
    copy(tmp_path)
    subprocess.run([BIN / "nbdev_clean"], cwd=tmp_path, check=True)
    assert contents(tmp_path, "nbs/*.ipynb") == contents(ROOT, "nbs/*.ipynb")


def test_readme_is_made_from_the_index(tmp_path):
    readme = tmp_path / "README.md"
    make = ["make", "--silent", "-o", f"{BIN.parent}/.installed", "readme", f"VENV={BIN.parent}", f"README={readme}"]
    subprocess.run(make, cwd=ROOT, check=True)
    assert readme.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and all((ROOT / link).exists() for link in local)


def test_the_table_of_mistakes_names_tests_that_exist():
    rows = re.findall(r"^\| (\d+) \|.*$", readme := (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert rows == [str(i) for i in range(1, 14)]
    for line in (line for line in readme.splitlines() if re.match(r"\| \d+ \|", line)):
        file, test = re.search(r"`(test_\w+)\.(test_\w+)`", line).groups()
        assert f"def {test}(" in (ROOT / f"tests/{file}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_is_executed_small_and_without_errors(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    outputs = [o for c in code for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert path.stem == "index" or outputs
    assert path.stat().st_size <= 300_000


def test_papermill_tag_survives_cleaning():
    nb = json.loads((ROOT / "nbs/05_train.ipynb").read_text(encoding="utf-8"))
    assert [c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", [])]


def test_wheel_installs_imports_and_finds_its_data(tmp_path):
    """Into a new environment that holds no babygpt; its dependencies are lent by this one."""
    source, env = copy(tmp_path / "source"), tmp_path / "env"
    done = python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("babygpt-*.whl")
    with zipfile.ZipFile(wheel) as z:
        packed = {n for n in z.namelist() if n.startswith("babygpt/")}
    assert packed == {p.relative_to(source).as_posix() for p in (source / "babygpt").rglob("*") if p.is_file()}
    venv.create(env, with_pip=False)
    lent = next(p for p in map(str, sys.path) if p.endswith("site-packages"))
    code = (
        "import babygpt, babygpt.train, babygpt.corpus as c, babygpt.hellaswag as h;"
        "print(babygpt.__file__, len(c.load_parallel()), len(h.load_hellaswag('embedded')))"
    )
    purelib = subprocess.run([env / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True, capture_output=True, check=True).stdout.strip()
    done = python("-m", "pip", "install", "--quiet", "--no-deps", "--target", purelib, wheel)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([env / "bin/python", "-c", code], cwd=tmp_path, env={"PYTHONPATH": lent, "PATH": "/usr/bin:/bin"}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    where, pairs, items = done.stdout.split()
    assert where.startswith(purelib) and int(pairs) == 64 and int(items) >= 40
