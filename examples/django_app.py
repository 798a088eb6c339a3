"""A Django project in one file: views put work into a queue, and answer 503 when it is full.

    cd examples && python -m django runserver --settings=django_app

The first request that needs the queue creates it: in the process that serves, after all forks of
the server, and not by ``manage.py migrate``. Any number of threads may put into it. When the
process ends, the accepted items are done first. The process must end in Python's normal way
(``sys.exit``, Ctrl-C, gunicorn's workers), and not by a signal without a handler. Run directly,
this file tests all of it (see ``thumbnails.py``). Needs django and httpx.

``opentelemetry-instrument`` reads the settings before this file runs:

    DJANGO_SETTINGS_MODULE=django_app opentelemetry-instrument python -m django runserver --noreload
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

import thumbnails
from django.apps import AppConfig, apps
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

import penstock.sync

# -- settings -------------------------------------------------------------------------------------

SECRET_KEY = "for an example"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "django_app"
INSTALLED_APPS = ["django_app.Thumbnails"]
USE_TZ = True
TIME_ZONE = "UTC"


# -- the app --------------------------------------------------------------------------------------


class Thumbnails(AppConfig):
    """Has the queue of this process."""

    name = "django_app"
    _queue: penstock.sync.WorkQueue[str] | None = None

    def ready(self) -> None:
        """Django is set up."""
        self._lock = threading.Lock()

    @property
    def queue(self) -> penstock.sync.WorkQueue[str]:
        """The queue, started."""
        with self._lock:
            if self._queue is None:
                queue = penstock.sync.WorkQueue[str](
                    maxsize=5, timeout=0.05, concurrency_limit=2, name="thumbnails"
                )
                queue.process(thumbnails.make_thumbnail)
                self._queue = queue
            return self._queue


def the_queue() -> penstock.sync.WorkQueue[str]:
    """The queue of this process."""
    app = apps.get_app_config("django_app")
    assert isinstance(app, Thumbnails)
    return app.queue


@csrf_exempt
@require_POST
def post_image(request: HttpRequest, image: str) -> JsonResponse:
    """Accept the image, or tell the caller to come back later."""
    if the_queue().put(image):
        return JsonResponse({"status": "accepted"}, status=202)
    return JsonResponse({"status": "busy"}, status=503, headers={"Retry-After": "1"})


def status(request: HttpRequest) -> JsonResponse:
    """How the queue of this process does."""
    queue = the_queue()
    return JsonResponse({"state": queue.status, "waiting": queue.size, **queue.metrics})


urlpatterns = [path("images/<image>", post_image), path("status", status)]


# -- the try --------------------------------------------------------------------------------------


def serve() -> None:
    """As ``manage.py runserver --noreload``, on a free port, ended by SIGTERM as by Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    execute_from_command_line(["django", "runserver", "--noreload", "127.0.0.1:0"])


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "django_app"
    if sys.argv[1:] == ["serve"]:
        serve()
    raise SystemExit(thumbnails.main([sys.executable, __file__, "serve"]))
