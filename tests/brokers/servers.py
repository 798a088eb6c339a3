"""Real NATS servers that tests start, kill, freeze and cut off.

All calls block, the longest for some seconds. In a test whose clients must answer meanwhile, call
them by ``asyncio.to_thread``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import permutations
from pathlib import Path
from typing import Any

import trustme

from brokers.build import built
from brokers.proxy import Proxy
from processes import HeldPort, wait_for

#: Seconds that a server may take to start, to stop, and to answer.
START, STOP, ANSWER = 30.0, 30.0, 10.0
#: Seconds that a cluster may take to elect.
ELECT = 60.0

#: Where one looks for a leader: not by way of a proxy that the environment names.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def packaged() -> Path:
    """A server for what needs one node: Debian's if it is there, or else the built one."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    return Path(found) if found else built()


class NatsServer:
    """A server on ports of this machine that are its own until it is closed.

    Args:
        folder: a new folder for its configuration, its log and its store.
        program: the server's program; :func:`packaged` unless it is said.
        jetstream: True, False, or what its block says, such as ``{"sync_interval": "always"}`` or
            ``{"max_file_store": 1_000_000}``.
        settings: whatever else its configuration shall say, in its own names: ``max_payload``,
            ``authorization``, ``accounts``, ``tls``, ``cluster``, ...
    """

    def __init__(
        self,
        folder: Path,
        program: Path | None = None,
        *,
        name: str = "nats",
        jetstream: bool | Mapping[str, Any] = True,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.name = name
        self.program = packaged() if program is None else program
        self._held = HeldPort(), HeldPort()
        self.port, self._http_port = (held.number for held in self._held)
        self.is_frozen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._scheme = "tls" if "tls" in settings else "nats"
        self.settings: dict[str, Any] = {
            "server_name": name,
            "host": "127.0.0.1",
            "port": self.port,
            "http": f"127.0.0.1:{self._http_port}",
            **settings,
        }
        if jetstream is not False:
            more = {} if jetstream is True else dict(jetstream)
            self.settings["jetstream"] = {"store_dir": str(folder / f"{name}.store"), **more}

    def __repr__(self) -> str:
        return f"<NatsServer {self.name} {self.url}>"

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.launch()
        wait_for(f"{self!r} to be ready", self.listens, START, every=0.01)

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        assert not self.is_running, f"{self!r} runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        # Its format holds all of JSON.
        config = self.folder / f"{self.name}.conf"
        config.write_text(json.dumps(self.settings, indent=2), encoding="utf-8")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [self.program, "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def listens(self) -> bool:
        """Whether it greets a client."""
        if not self.is_running:
            code = None if self._process is None else self._process.returncode
            raise RuntimeError(f"{self!r} ended with code {code}:\n{self.tail()}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER) as client:
                return client.recv(4) == b"INFO"
        except OSError:
            return False

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """End it by SIGTERM: it says goodbye to its clients and stores what is to be stored."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same port with the same store."""
        if self.is_running:
            self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay, nothing is answered."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # The signal takes a moment, and until then it answers.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        self.is_frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)
        self.is_frozen = False

    def close(self) -> None:
        """End it, whatever its state. What it logged is shown where the test failed."""
        if self.is_running:
            if self.is_frozen:
                self.thaw()
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
        for held in self._held:
            held.close()
        if self.log.exists():
            sys.stdout.write(f"--- {self.log}\n{self.tail()}\n")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-5000:]

    def monitor(self, path: str) -> Any:
        """What its monitoring port tells, such as ``/jsz?streams=true``; None: no answer."""
        try:
            with _http.open(f"http://127.0.0.1:{self._http_port}{path}", timeout=ANSWER) as answer:
                return json.load(answer)
        except (OSError, urllib.error.URLError):
            return None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self!r} was not started"
        return self._process

    def _end(self, number: signal.Signals) -> None:
        process = self._running()
        process.send_signal(number)
        process.wait(STOP)
        self.is_frozen = False


class Node(NatsServer):
    """A server that is part of a cluster."""

    #: What stands before it for clients, where the cluster is behind proxies.
    proxy: Proxy | None = None

    @property
    def url(self) -> str:
        return self.proxy.url if self.proxy else super().url


class Cluster:
    """Servers with routes to each other, whose streams can have as many replicas.

    Args:
        folder: a new folder for all that they write.
        size: how many.
        proxied: put a :class:`Proxy` before each node, by which clients reach it, and one between
            each two nodes, so that some can be cut off from clients and from each other.
        settings: as for :class:`NatsServer`.

    Clients are told of no other node than those that they are given.
    """

    def __init__(
        self,
        folder: Path,
        size: int = 3,
        *,
        proxied: bool = False,
        program: Path | None = None,
        **settings: Any,
    ) -> None:
        self._program = built() if program is None else program
        self._folder, self._settings = folder, settings
        self._cleanup = ExitStack()
        #: The ways from each node to each other, by their places, where they are proxied.
        self._between: dict[tuple[int, int], Proxy] = {}
        self._isolated: set[Node] = set()
        held = [self._cleanup.enter_context(HeldPort()) for _ in range(size)]
        listens = [port.number for port in held]
        self.nodes = [self._node(place, listens[place]) for place in range(size)]
        if proxied:
            for node in self.nodes:
                node.proxy = self._cleanup.enter_context(Proxy(node.port))
            for way in permutations(range(size), 2):
                self._between[way] = self._cleanup.enter_context(Proxy(listens[way[1]]))
        for place, node in enumerate(self.nodes):
            node.settings["cluster"]["routes"] = [
                f"nats://127.0.0.1:{self._between[place, other].port if proxied else listen}"
                for other, listen in enumerate(listens)
                if other != place
            ]

    def _node(self, place: int, listen: int) -> Node:
        return Node(
            self._folder,
            self._program,
            name=f"node{place}",
            cluster={
                "name": "tests",
                "listen": f"127.0.0.1:{listen}",
                "no_advertise": True,
                # What nodes tell each other about third ones: nobody listens there, so that none
                # finds a way around the proxy.
                "advertise": "127.0.0.1:1",
                # Newer ones would have several routes between two nodes.
                "pool_size": -1,
            },
            **self._settings,
        )

    @property
    def urls(self) -> list[str]:
        """What clients connect to."""
        return [node.url for node in self.nodes]

    def start(self) -> None:
        """Start all nodes, and wait until they have a leader and all answer to it."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            wait_for(f"{node!r} to be ready", node.listens, START, every=0.01)
        self.wait_for_meta_leader(len(self.nodes))
        wait_for("room for a stream on all nodes", self._has_room, ELECT)

    def _has_room(self) -> bool:
        """Whether a stream with all replicas can be made: a leader knows its peers before that."""
        config = {
            "name": "room",
            "subjects": ["room"],
            "storage": "memory",
            "num_replicas": len(self.nodes),
        }
        made = _ask(self.nodes[0].port, "$JS.API.STREAM.CREATE.room", config)
        return "error" not in made and bool(
            _ask(self.nodes[0].port, "$JS.API.STREAM.DELETE.room", {}).get("success")
        )

    def wait_for_meta_leader(self, online: int | None = None) -> Node:
        """The node that leads all, once so many (a majority) know it and it knows so many."""
        least = len(self.nodes) // 2 + 1 if online is None else online

        def elected() -> Node | None:
            infos = [node.monitor("/jsz") or {} for node in self._in_touch()]
            metas = [info.get("meta_cluster") or {} for info in infos]
            named = [meta["leader"] for meta in metas if meta.get("leader")]
            peers = max((self._online(meta) for meta in metas), default=0)
            agreed = len(named) >= least and len(set(named)) == 1 and peers >= least
            return self._called(named[0]) if agreed else None

        return wait_for("a leader of the cluster", elected, ELECT)

    def leader(self, stream: str) -> Node:
        """The node that leads a stream, once a majority says so."""

        def found() -> Node | None:
            infos = [node.monitor("/jsz?streams=true") or {} for node in self._in_touch()]
            named = [
                (detail.get("cluster") or {}).get("leader")
                for info in infos
                for account in info.get("account_details") or ()
                for detail in account.get("stream_detail") or ()
                if detail["name"] == stream
            ]
            for name in set(named):
                if name and named.count(name) > len(self.nodes) // 2:
                    return self._called(name)
            return None

        return wait_for(f"a leader of the stream {stream}", found, ELECT)

    def isolate(self, node: Node) -> None:
        """Cut a node off from the others, its clients not. For clusters that are proxied."""
        for proxy in self._ways_to(node):
            proxy.stall()
        self._isolated.add(node)

    def rejoin(self, node: Node) -> None:
        """Let it talk to the others again."""
        for proxy in self._ways_to(node):
            # Not just go on: a route that stood still may have been given up at one end.
            proxy.cut()
            proxy.resume()
        self._isolated.discard(node)

    def close(self) -> None:
        """End all of it."""
        with self._cleanup:
            for node in self.nodes:
                self._cleanup.callback(node.close)

    def _ways_to(self, node: Node) -> list[Proxy]:
        assert self._between, "this cluster is not proxied"
        place = self.nodes.index(node)
        return [proxy for way, proxy in self._between.items() if place in way]

    def _in_touch(self) -> list[Node]:
        """Those that can lead."""
        return [
            node
            for node in self.nodes
            if node.is_running and not node.is_frozen and node not in self._isolated
        ]

    def _called(self, name: str) -> Node | None:
        # None: the others have not noticed yet that it is gone.
        return next((node for node in self._in_touch() if node.name == name), None)

    @staticmethod
    def _online(meta: Mapping[str, Any]) -> int:
        # Only the leader lists the others.
        replicas = meta.get("replicas") or ()
        return 1 + sum(not replica.get("offline") for replica in replicas)


def _ask(port: int, subject: str, request: dict[str, Any]) -> dict[str, Any]:
    """What JetStream answers; an error where it does not. By hand: some loop may be running."""
    payload = json.dumps(request).encode()
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER) as connection:
            lines = connection.makefile("rb")
            connection.sendall(
                b'CONNECT {"verbose":false}\r\nSUB answer 1\r\n'
                + f"PUB {subject} answer {len(payload)}\r\n".encode()
                + payload
                + b"\r\n"
            )
            while not (line := lines.readline()).startswith(b"MSG "):
                if not line or line.startswith(b"-ERR"):
                    return {"error": line.decode()}
                if line.startswith(b"PING"):
                    connection.sendall(b"PONG\r\n")
            answer: dict[str, Any] = json.loads(lines.read(int(line.split()[-1])))
            return answer
    except OSError as error:
        return {"error": str(error)}


@contextmanager
def running(server: NatsServer | Cluster) -> Iterator[Any]:
    """Run it until the block ends."""
    try:
        server.start()
        yield server
    finally:
        server.close()


class Certificates:
    """A certificate authority of the test's own, and what it has signed, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "ca.pem"
        self._folder = folder
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(self.authority)

    def issue(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate and its key, for a host's name or address."""
        issued = self._ca.issue_cert(name)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        with suppress(FileNotFoundError):
            certificate.unlink()
        for blob in issued.cert_chain_pems:
            blob.write_to_path(certificate, append=True)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def block(self, name: str = "127.0.0.1", *, verify: bool = False) -> dict[str, Any]:
        """The ``tls`` block of a server; ``verify``: clients must show certificates too."""
        certificate, key = self.issue(name)
        block = {"cert_file": str(certificate), "key_file": str(key), "verify": verify}
        return block | ({"ca_file": str(self.authority)} if verify else {})
