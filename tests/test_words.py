"""One word for one thing: what the names in the code and the first pages are made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock

PACKAGE = Path(penstock.__file__).parent

#: The rooms whose names are the field's. The others follow when they are rewritten.
ROOMS = ("_util", "brokers", "limits", "queue", "sync", "telemetry", "workers")

#: Words that had another name for the same thing, and the word to use.
RETIRED = {
    "account": "counter",
    "alarm": "timer",
    "bid": "waiting put",
    "bridge": "buffer",
    "bury": "add to the dead letters",
    "complain": "log",
    "crew": "group",
    "desk": "slot",
    "ease": "relax",
    "farewell": "exit",
    "fullness": "full",
    "home": "thread",
    "house": "provider",
    "lend": "get",
    "lesson": "learning",
    "loan": "checked out",
    "postpone": "delay",
    "recruit": "start",
    "restraint": "learned rate",
    "ring": "notify",
    "ripen": "become due",
    "surrender": "reclaim",
    "taker": "waiter",
    "turnstile": "limiter state",
    "unwanted": "cancelled",
    "visit": "call",
    "void": "revoked",
}

#: Phrases that do not come back into the first pages, and what to write instead.
PHRASES = {
    r"\bso many\b": "a number, or 'a number of'",
    r"\bbelongs? into\b": "belongs in",
    r"\b(is|are|was) told\b": "say who says it to whom",
    r"\bbeg[ia]ns? anew\b": "starts again",
    r"\bgo(es)? on\b": "continue",
    r"\bwhoever\b": "name the caller, the producer or the user",
    r"\b(no|some)body\b": "name the caller, the producer or the user",
    r"\ball the same\b": "still",
    r"\bas ever\b": "as usual",
    r"\bunless you say\b": "by default",
}

#: What a newcomer reads first.
FIRST_PAGES = ("README.md", "docs/index.md", "docs/tutorial.md", "docs/which-one.md")

#: Names that have such a word all the same, by module. May only get shorter.
LEFT: set[tuple[str, str]] = set()


def names_of(path: Path) -> Iterator[str]:
    """Every name that a module gives to something."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def words_of(name: str) -> set[str]:
    """The words that a name is made of, in lower case: ``_WaitingPut``, ``waiting_put``."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return {word.lower() for word in words} | {word.lower().removesuffix("s") for word in words}


def breaches() -> set[tuple[str, str]]:
    paths = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]
    return {
        (".".join(path.relative_to(PACKAGE).with_suffix("").parts), name)
        for path in paths
        for name in names_of(path)
        if words_of(name) & RETIRED.keys()
    }


def test_no_name_has_a_word_that_was_given_up() -> None:
    found = breaches()
    assert found - LEFT == set(), "RETIRED says which word to use"
    assert LEFT - found == set(), "LEFT can be shorter"


@pytest.mark.parametrize("page", FIRST_PAGES)
def test_the_first_pages_have_usual_words(page: str) -> None:
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8").lower()
    instead = {phrase: words for phrase, words in PHRASES.items() if re.search(phrase, text)}
    assert instead == {}


def test_a_name_is_taken_apart_into_its_words() -> None:
    assert words_of("_WaitingPut") >= {"waiting", "put"}
    assert words_of("_is_taker") >= {"is", "taker"}
    assert words_of("TAKERS") >= {"taker"}
    assert words_of("LoopThread2") >= {"loop", "thread"}
