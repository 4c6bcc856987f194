"""The docs are tested like code: commands exist, paths exist, examples load, links resolve."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bursar import settings
from bursar.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}[^\n]*$", re.MULTILINE)
SEVERAL_IN_A_LINE = re.compile(r" {2,}(?=bursar )")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
# A name that ends in one of these, or in a slash, is a path when it stands in ARCHITECTURE.md.
PATH = re.compile(r"[\w.*{},<>/-]+(?:\.(?:py|sql|toml|md|json|txt|lock)|/)")
PLACES = [ROOT, ROOT / "src" / "bursar", *(path for path in (ROOT / "src" / "bursar").iterdir() if path.is_dir())]
SHELLS = {"", "sh", "bash", "shell", "console", "text"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield match["kind"], match["text"]


def command_lines(page: Path) -> Iterator[list[str]]:
    """Give the words of every `bursar ...` command, in code blocks and in running text."""
    text = page.read_text(encoding="utf-8")
    shown = [block for kind, block in blocks(page) if kind in SHELLS]
    shown += INDENTED.findall(FENCE.sub("", text))
    lines = [line for block in shown for line in block.replace("\\\n", " ").splitlines()]
    candidates = [command for line in lines for command in SEVERAL_IN_A_LINE.split(line)]
    candidates += INLINE.findall(FENCE.sub("", text))
    for candidate in candidates:
        command = re.sub(r"^\s*(\$ |[A-Z_]+=\S+ )*", "", candidate)
        command = re.sub(r"^(\.venv/bin/)", "", command)
        if command.startswith("bursar "):
            yield shlex.split(command, comments=True)[1:]


@every_page
def test_every_command_exists_with_its_options(page: Path) -> None:
    for words in command_lines(page):
        command: click.Command = cli
        own, _, _ = " ".join(words).partition(" -- ")
        values: set[str] = set()
        for before, word in zip(("", *own.split()), own.split(), strict=False):
            if before in values:
                continue
            if word.startswith("--"):
                known = {
                    option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
                }
                assert word.partition("=")[0] in {*known, "--help"}, f"bursar {' '.join(words)}"
                # A group may have options of its own, and the value of one is no command.
                values = {
                    name
                    for parameter in command.params
                    if isinstance(parameter, click.Option) and not parameter.is_flag
                    for name in parameter.opts
                }
            elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
                inner = command.get_command(click.Context(command), word)
                assert inner is not None, f"bursar {' '.join(words)}"
                command = inner


@every_page
def test_every_example_of_bursar_toml_loads(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(text for kind, text in blocks(page) if kind == "toml"):
        example = tmp_path / f"example{number}.toml"
        example.write_text(text, encoding="utf-8")
        settings.load(example)


@every_page
def test_every_local_link_resolves(page: Path) -> None:
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), match["target"]
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), match["target"]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    for word in re.findall(r"(?:`|^ {4}(?:\$ )?)make ([a-z-]+)", text, re.MULTILINE):
        assert word in targets, f"make {word}"


def test_every_path_that_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = {code for code in INLINE.findall(FENCE.sub("", text)) if PATH.fullmatch(code)}
    assert named, "a map without places"
    missing = {name for name in named if not any(any(place.glob(name.rstrip("/"))) for place in PLACES)}
    assert not missing


def test_every_room_stands_in_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = (ROOT / "src" / "bursar").iterdir()
    rooms = {path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not {room for room in rooms if not room.startswith("__") and not re.search(rf"\b{room}\b", text)}
