"""What is in the pages of documentation: blocks of code, with what a comment says of each."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))

_BLOCK = re.compile(
    r"(?:^<!-- ([^\n]*?) -->\n)?^(`{3,})([^\n`]*)\n(.*?)^\2$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A block of code. A comment right before it may say:

    ``file: NAME``: the console blocks of the page find it under this name. ``output``: what the
    block before it prints. ``not run: WHY``: it cannot run here. ``exits with N``: its last command
    does. ``in the background``: it goes on until the page is at its end. ``served: NAME``: a
    server of others serves it, in ``tests/servers``, under this name.
    """

    page: Path
    number: int
    language: str
    code: str
    comment: str

    @property
    def name(self) -> str:
        """Where it is, for people."""
        place = self.page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")
        return f"{place}-{self.number}"

    def said(self, what: str) -> str | None:
        """What the comment says after ``what``, or None."""
        return self.comment[len(what) :].strip() if self.comment.startswith(what) else None


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """The blocks of one page; those that are directives of Sphinx are none."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return tuple(
        Block(page, number, match[3], match[4], match[1] or "")
        for number, match in enumerate(found, 1)
        if not match[3].startswith("{")
    )


def all_blocks() -> Iterator[Block]:
    """Those of all pages."""
    for page in PAGES:
        yield from blocks(page)


def outputs(block: Block) -> list[str]:
    """What the page says that the block prints: nothing, or one text."""
    after = [other for other in blocks(block.page) if other.number > block.number]
    return [after[0].code] if after and after[0].comment == "output" else []


@dataclass(frozen=True)
class Command:
    """One command of a console block, and what stands below it."""

    line: str
    output: str


def commands(block: Block) -> list[Command]:
    """``$`` begins a command, which goes on while lines end in a backslash."""
    found: list[tuple[list[str], list[str]]] = []
    goes_on = False
    for line in block.code.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif goes_on:
            found[-1][0].append(line)
        else:
            assert found, f"{block.name} must begin with a command: $ ..."
            found[-1][1].append(line)
        goes_on = (line.startswith("$ ") or goes_on) and line.endswith("\\")
    return [Command("\n".join(lines), "\n".join(output)) for lines, output in found]


def is_like(got: str, expected: str) -> bool:
    """Whether they are the same, where ``...`` stands for anything, and white space for itself."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(f"{expected.strip()}\n", f"{got.strip()}\n", flags)


def anchors(page: Path) -> list[str]:
    """Those that headings get: in small letters, with hyphens, without the rest."""
    text = page.read_text(encoding="utf-8")
    for included in re.findall(r"^```\{include\} (\S+)$", text, re.MULTILINE):
        text += (page.parent / included).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
