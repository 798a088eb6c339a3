"""The modules for HTTP clients, and how they say that these are missing."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from typing import Any

import pytest

import penstock

LIBRARIES = ["httpx", "httpx2", "aiohttp", "requests"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_the_extra_it_says_what_to_install(library: str) -> None:
    program = f"""if True:
        import sys
        sys.modules["{library}"] = None
        try:
            import penstock.{library}
        except ImportError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert f"pip install 'penstock[{library}]'" in done.stdout


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_what_is_missing_of_the_package_itself_is_not_blamed_on_the_extra(library: str) -> None:
    pytest.importorskip(library)
    program = f"""if True:
        import sys
        sys.modules["anyio"] = sys.modules["certifi"] = sys.modules["idna"] = None
        import penstock.{library}
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "penstock[" not in done.stderr


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "name", ["QueueFullError", "CircuitBreakerOpenError", "DeadlineExceededError"]
)
def test_its_errors_are_errors_of_both_and_pickle(library: str, name: str) -> None:
    package: Any = pytest.importorskip(library)
    module = importlib.import_module(f"penstock.{library}")
    error = getattr(module, name)("no")
    assert isinstance(error, getattr(penstock, name))
    bases = ("TransportError", "ClientError", "RequestException")
    assert isinstance(error, next(getattr(package, one) for one in bases if hasattr(package, one)))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.message) == (type(error), "no", "no")


@pytest.mark.parametrize("library", LIBRARIES)
def test_its_public_names_are_there_and_say_what_they_are(library: str) -> None:
    pytest.importorskip(library)
    module = importlib.import_module(f"penstock.{library}")
    assert sorted(module.__all__) == module.__all__
    for name in module.__all__:
        assert getattr(module, name).__doc__


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_the_old_names_stand_for_the_same(library: str) -> None:
    pytest.importorskip(library)
    module = importlib.import_module(f"penstock.{library}")
    assert module.QueueTransport is module.PolicyTransport
    assert module.SyncQueueTransport is module.SyncPolicyTransport
