"""The documentation is whole: pages that exist, snippets that parse, links that lead somewhere, nothing of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from limbeck import catalog, cli
from limbeck.cli.sizes import sizes
from limbeck.config import read_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)


def page_name(path):
    return str(path.relative_to(ROOT))


def snippets(*languages):
    """A parameter (text of the snippet) for each snippet in these languages, named by page and line."""
    found_here = []
    for page in PAGES:
        text = page.read_text()
        for found in FENCE.finditer(text):
            indent, language, body = found.groups()
            if language in languages:
                line = text.count("\n", 0, found.start()) + 1
                plain = re.sub(rf"^{indent}", "", body, flags=re.M)
                found_here.append(pytest.param(plain, id=f"{page_name(page)}:{line}"))
    return found_here


def test_every_method_has_its_page_and_every_page_its_method():
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"README"}
    assert pages == {entry.name for entry in (*catalog.METHODS, *catalog.COURSES)}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_fence_is_closed_and_names_its_language(page):
    lines = [line.strip() for line in page.read_text().splitlines() if line.strip().startswith("```")]
    assert len(lines) % 2 == 0
    assert all(line == "```" for line in lines[1::2])
    assert all(line != "```" for line in lines[::2]), "a fence without a language"


@pytest.mark.parametrize("text", snippets("python"))
def test_python_compiles(text):
    compile(text, "snippet", "exec")


@pytest.mark.parametrize("text", snippets("yaml"))
def test_yaml_parses_and_whole_recipes_are_recipes(text):
    found = yaml.safe_load(text)
    if isinstance(found, dict) and "stages" in found:
        assert read_recipe(text).stages


@pytest.mark.parametrize("text", snippets("console"))
def test_commands_exist(text, capsys):
    """Every ``limbeck COMMAND --option`` in a console snippet is one, without running it."""
    for line in re.findall(r"^\$ .*?limbeck (.+)$", text, re.M):
        line = re.sub(r"\s+#.*", "", line)
        for part in re.split(r"\|\s*limbeck ", line):
            words = part.split()
            if words[0].startswith("-"):
                continue
            assert cli.main([words[0], "--help"]) == 0, part
            said = capsys.readouterr().out
            for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", " ".join(words[1:])):
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", said), f"limbeck {words[0]} has no {option}"


def anchors(page):
    """What GitHub calls the headings of a page."""
    heads = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text()), re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)).lower().replace(" ", "-")
        for head in heads
    }


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


def test_every_page_can_be_reached_from_the_index():
    index = ROOT / "docs" / "index.md"
    seen, todo = set(), [index]
    while todo:
        page = todo.pop()
        if page in seen or not page.exists():
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text()):
            if not re.match(r"[a-z]+:", target):
                todo.append((page.parent / target).resolve())
    missing = [page_name(page) for page in PAGES if page not in seen and page.is_relative_to(ROOT / "docs")]
    assert missing == []


def test_the_changelog_has_this_version():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changes
    assert f"## [{version[1]}]" in changes
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version[1]


def test_constraints_are_names_and_versions_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in lines)
    pinned = [line.split("==")[0] for line in lines]
    assert pinned == sorted(set(pinned))
    project = (ROOT / "pyproject.toml").read_text()
    wanted = {name.lower() for name in re.findall(r'^ *(?:timm = \[)?"([A-Za-z0-9-]+)(?:\[\w+\])?>=', project, re.M)}
    assert wanted - {"hatchling"} <= set(pinned)


# Put together here, so that this file holds none of them.
FOREIGN = re.compile(
    "|".join(
        [
            r"(?<![\w.~$}])/"
            + rf"(?:{'|'.join(('wo' + 'rk', 'fa' + 'rm', 'ho' + 'me', 'ro' + 'ot', 'Us' + 'ers'))})/\w",
            r"/t" + r"mp/\w",
            r"(?:index|extra-index|find-links)" + r"[-_a-z]*[ =]+\S*(?:https?|file):",
            r"py" + r"pi\.org/simple",
            r"files\.python" + r"hosted",
            r"file" + r":///",
        ]
    )
)


def tracked():
    """The files of this checkout that are, or would be, under version control."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_nothing_was_left_at_the_root():
    """Tools write into the folder they are called from; what they leave must not get under version control."""
    known = {".gitattributes", ".gitignore", "CITATION.cff", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml"}
    found = {path.name for path in tracked() if path.parent == ROOT and path.suffix != ".md"}
    assert found <= known


def test_no_path_of_one_machine_and_no_package_index():
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode().splitlines(), 1):
            if FOREIGN.search(line):
                found.append(f"{page_name(path)}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize(
    "text", ["cd /wo" + "rk/main", "see /ho" + "me/me/x", "--index" + "-url https://x/simple", "'/t" + "mp/a'"]
)
def test_that_would_notice_one(text):
    assert FOREIGN.search(text)


@pytest.mark.parametrize(
    "text", ["https://example.org/home/x", "runs/tmp", "model/work.py", "~/.cache/limbeck", "$HOME/wo" + "rk/x"]
)
def test_and_leaves_others_alone(text):
    assert not FOREIGN.search(text)


def test_the_sizes_of_networks_are_those_that_are_counted():
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\| (\d+x\d+x\d+) \| ([\d,]+) \| ([\d.,]+) M \|$",
        (ROOT / "docs" / "models.md").read_text(),
        re.M,
    )
    counted = {
        s.name: ("x".join(map(str, s.input_shape)), f"{s.parameters:,}", f"{s.macs / 1e6:.2f}") for s in sizes(10)
    }
    assert {name: tuple(told) for name, *told in rows} == counted
