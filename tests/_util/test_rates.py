"""Rates as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._util.rates import parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500/min", (500, 60)),
        ("20/s", (20, 1)),
        ("90_000 / minute", (90_000, 60)),
        ("100/10s", (100, 10)),
        ("5/2s", (5, 2)),
        ("5/100ms", (5, 0.1)),
        ("0.5/hours", (0.5, 3600)),
        ("1000/hour", (1000, 3600)),
        ("7/d", (7, 86_400)),
        ("1_000/day", (1000, 86_400)),
        ("200 per minute", (200, 60)),
        (" 200 PER 1.5 Min ", (200, 90)),
    ],
)
def test_a_rate_as_people_write_it(text: str, rate: tuple[float, float]) -> None:
    assert parse_rate(text) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("500", "x/s", "0/s", "-1/s", "5/0s", "1/week", "1//s", "", "/s", "5 minutes", "5per"),
        *("5/", "5/2", "1.2.3/s", "._/s", "5/s/s", "5/min, 2/s", "5/ds", "9" * 400 + "/s"),
    ],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="a rate must look like 500/min, 20/s or 100/10s, got "):
        parse_rate(text)


@pytest.mark.parametrize("wrong", [500, None, b"500/min", ("500", "min")])
def test_what_is_no_text(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a rate must be a str such as '500/min', got "):
        parse_rate(wrong)
