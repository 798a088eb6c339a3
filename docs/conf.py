"""How the documentation is built: ``make docs``. Nothing is fetched from the network."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

from sphinx import addnodes

project = "penstock"
author = "The penstock developers"
project_copyright = "The penstock developers. Apache License 2.0"
version = release = version_of("penstock")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# Of what is shown as typed in a terminal, the button copies what is typed: no prompt, no output.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"penstock {version}"
html_show_sphinx = False

# Pages are Markdown that reads well without being built. Headings can be linked to as they can on
# the web sites that show such files.
myst_heading_anchors = 4

# Every reference in a docstring to something of ours must lead somewhere. Those to the standard
# library would need its inventory from the network, and stay plain text; so do type variables and
# the parts that a queue is made of.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!penstock\.).*"),
    ("py:.*", r"penstock\.[\w.]+\.([A-Z]|T_contra|E|Q|Outcome)"),
    (
        "py:.*",
        r"penstock\.[\w.]+\.(PermitContext|PermitIssuer|LimitOwner|LimiterStatistics)",
    ),
    ("py:.*", r"penstock\.[\w.]+\.(LoopFuture|ThreadWorkerPool|(Blocking)?ItemStream|Job)"),
    ("py:.*", r"penstock\.[\w.]+\.(ObserverProvider|QueueReadings|Origin)"),
]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

#: What people look for, and where it leads. The search leaves out words that are numbers, and puts
#: a class whose name only begins with the word behind many others.
INDEX = {
    "how-to/too-many-requests": {"429": ""},
    "how-to/the-service-is-down": {"502": "", "503": "", "504": ""},
    "reference/limits": {
        "retry": "penstock.RetryPolicy",
        "rate limit": "penstock.Limit",
        "circuit breaker": "penstock.CircuitBreaker",
    },
}


def add_index_entries(app: Any, doctree: Any) -> None:
    """Let the page be found by these words."""
    words = INDEX.get(app.env.docname, {})
    entries = [("single", word, there, "main", None) for word, there in words.items()]
    if entries:
        next(iter(doctree)).insert(0, addnodes.index(entries=entries))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", add_index_entries)
