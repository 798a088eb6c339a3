"""What the transports are made of: their arguments."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import AdaptiveConcurrency, Limit, Limiter, Policy, RetryPolicy


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limits": Limit(1, 1)}, TypeError, "write limits="),
        ({"limits": "500/min"}, TypeError, "write limits=.'500/min'."),
        ({"limits": [1]}, TypeError, "got 1 in it"),
        ({"retry": 3}, TypeError, "retry must be a RetryPolicy or None, got 3"),
        ({"breaker": 3}, TypeError, "breaker must be a CircuitBreaker or None, got 3"),
        ({"concurrency": 0}, ValueError, "concurrency must be at least 1, got 0"),
        ({"concurrency": None}, TypeError, "an int or an AdaptiveConcurrency, got None"),
        ({"deadline": -1}, ValueError, "deadline must be zero or more seconds"),
        ({"maxsize": 0}, ValueError, "maxsize must be at least 1, got 0"),
        ({"timeout": -1}, ValueError, "timeout must be zero or more seconds"),
        ({"transport": 1}, TypeError, "transport must have the method handle_.*request, got 1"),
        ({"is_failure": 500}, TypeError, "is_failure must be a function, got 500"),
        ({"is_failure": lambda: True}, TypeError, "is_failure must accept response"),
        ({"retry_unsafe": 1}, TypeError, "retry_unsafe must be a bool, got 1"),
        ({"policy": 3}, TypeError, "policy must be a penstock.Policy or None, got 3"),
        (
            {"policy": Policy(), "retry": RetryPolicy(2)},
            ValueError,
            "retry and policy were given, and a policy has its own",
        ),
        ({"policy": Policy(attempt_timeout=1)}, ValueError, "must have no attempt_timeout"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"telemetry": 1}, TypeError, "telemetry must be a penstock.telemetry.Telemetry, got 1"),
    ],
)
@pytest.mark.parametrize("kind", ["PolicyTransport", "SyncPolicyTransport"])
def test_bad_arguments(
    ours: Any, kind: str, arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(ours, kind)(**arguments)


@pytest.mark.parametrize("kind", ["PolicyTransport", "SyncPolicyTransport"])
def test_a_transport_of_the_other_world_is_refused(library: Any, ours: Any, kind: str) -> None:
    other = {
        "PolicyTransport": library.HTTPTransport,
        "SyncPolicyTransport": library.AsyncHTTPTransport,
    }
    with pytest.raises(TypeError, match="transport must have the method"):
        getattr(ours, kind)(transport=other[kind]())


@pytest.mark.parametrize("kind", ["PolicyTransport", "SyncPolicyTransport"])
def test_it_says_what_it_is(ours: Any, kind: str) -> None:
    limiter = Limiter([Limit(1, per=1)])
    transport = getattr(ours, kind)(
        limiter, concurrency=AdaptiveConcurrency(1, 5), retry=RetryPolicy(1), name="prices"
    )
    assert transport.limits is limiter
    assert repr(transport).startswith(f"<{kind} 'prices' under <Policy 'policy': limits=")


def test_a_verdict_that_is_none_is_an_error(library: Any, ours: Any) -> None:
    inner = library.MockTransport(lambda request: library.Response(200))
    transport = ours.SyncPolicyTransport(transport=inner, is_failure=lambda response: None)
    with (
        library.Client(transport=transport) as http,
        pytest.raises(TypeError, match="is_failure must return a bool, got None"),
    ):
        http.get("http://nowhere/")
