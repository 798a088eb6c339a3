"""What errors of gRPC say, raised by a real client against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.limits.failures import Failure, failure_of
from processes import HeldPort

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

METHOD = "/penstock.Service/Call"
BOUND = 60.0


@pytest.fixture(autouse=True)
def _it_is_installed() -> None:
    # Imported by these tests alone: others fork.
    pytest.importorskip("grpc_status.rpc_status")


class Service:
    """Ends each call as the test says."""

    code: Any = None
    metadata: tuple[tuple[str, str], ...] = ()
    details = "no"
    #: A google.rpc.Status, to end with in place of the code.
    status: Any = None

    def service(self, call_details: Any) -> Any:
        import grpc
        from grpc_status import rpc_status

        def end(request: bytes, context: Any) -> bytes:
            if self.status is not None:
                context.abort_with_status(rpc_status.to_status(self.status))
            context.set_trailing_metadata(self.metadata)
            context.abort(self.code, self.details)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(end)


@pytest.fixture
def service() -> Iterator[Service]:
    import grpc

    service = Service()
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((service,))
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"  # type: ignore[attr-defined]
    server.start()
    yield service
    server.stop(None).wait(BOUND)


def call(address: str) -> object:
    import grpc

    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary(METHOD)(b"", timeout=BOUND)


def call_async(address: str) -> object:
    import grpc

    async def main() -> object:
        async with grpc.aio.insecure_channel(address) as channel:
            return await channel.unary_unary(METHOD)(b"", timeout=BOUND)

    return asyncio.run(main())


def call_by_api_core(address: str) -> object:
    import grpc

    helpers: Any = pytest.importorskip("google.api_core.grpc_helpers")
    with grpc.insecure_channel(address) as channel:
        return helpers.wrap_errors(channel.unary_unary(METHOD))(b"", timeout=BOUND)


@pytest.mark.parametrize("call", [call, call_async, call_by_api_core])
@pytest.mark.parametrize(
    ("code", "pushback", "failure"),
    [
        ("RESOURCE_EXHAUSTED", "7000", Failure(429, True, True, retry_after=7)),
        ("RESOURCE_EXHAUSTED", None, Failure(429, True, True)),
        ("UNAVAILABLE", None, Failure(503, is_transient=True)),
        ("UNAVAILABLE", "-1", Failure(503, is_permanent=True)),
        ("DEADLINE_EXCEEDED", None, Failure(504, is_transient=True)),
        ("ABORTED", None, Failure(409, is_transient=True)),
        ("NOT_FOUND", None, Failure(404, is_permanent=True)),
        ("INVALID_ARGUMENT", None, Failure(400, is_permanent=True)),
    ],
)
def test_what_a_code_says(
    call: Callable[[str], object],
    code: str,
    pushback: str | None,
    failure: Failure,
    service: Any,
) -> None:
    import grpc

    service.code = grpc.StatusCode[code]
    service.metadata = () if pushback is None else (("grpc-retry-pushback-ms", pushback),)
    with pytest.raises(Exception, match="no") as raised:
        call(service.address)
    assert failure_of(raised.value) == failure


@pytest.mark.parametrize("call", [call, call_async])
def test_nobody_is_there(call: Callable[[str], object]) -> None:
    import grpc

    with HeldPort() as port, pytest.raises(grpc.RpcError) as raised:
        call(f"127.0.0.1:{port.number}")
    assert failure_of(raised.value) == Failure(503, is_transient=True)


@pytest.mark.parametrize(
    ("quota", "failure"),
    [
        (None, Failure(429, True, True, retry_after=7.5)),
        ("GenerateRequestsPerMinute", Failure(429, True, True, retry_after=7.5)),
        (
            "GenerateRequestsPerDay",
            Failure(429, is_permanent=True, is_quota_spent=True, retry_after=7.5),
        ),
    ],
)
def test_the_details_that_google_sends(quota: str | None, failure: Failure, service: Any) -> None:
    from google.protobuf.any_pb2 import Any as Packed
    from google.rpc import error_details_pb2, status_pb2

    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(7_500)
    details: list[Any] = [retry]
    if quota is not None:
        violation = error_details_pb2.QuotaFailure.Violation(description=quota)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    service.status = status_pb2.Status(code=8, message="no")
    for each in details:
        packed = Packed()
        packed.Pack(each)
        service.status.details.append(packed)
    with pytest.raises(Exception, match="no") as raised:
        call_by_api_core(service.address)
    assert failure_of(raised.value) == failure
