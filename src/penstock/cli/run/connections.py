"""How a service is reached: TLS, proxies, and the time that a connection may take."""

from __future__ import annotations

import os
import ssl
import sys
from dataclasses import dataclass, field
from functools import cached_property
from urllib.request import getproxies, proxy_bypass

from yarl import URL

#: Seconds in which a connection must be made.
CONNECT_TIMEOUT = 10.0


@dataclass
class Connections:
    """Settings of connections.

    Args:
        ca: a file of certificates to trust in place of the system's.
        cert: a file with our own certificate and its key.
        insecure: take any certificate.
        connect_timeout: seconds to connect.

    Raises:
        ValueError, OSError: a file or a proxy cannot be used.
    """

    ca: str | None = None
    cert: str | None = None
    insecure: bool = False
    connect_timeout: float = CONNECT_TIMEOUT
    _proxies: dict[str, URL] = field(init=False, repr=False)
    _chosen: dict[tuple[str, str | None, int | None], URL | None] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        proxies = {name: text for name, text in getproxies().items() if name != "no" and text}
        self._proxies = {
            name: _proxy(name, text)
            for name, text in proxies.items()
            if name in ("http", "https", "all")
        }
        if self.ca is not None or self.cert is not None:
            self.tls_context()  # what is wrong with the files is told now

    @property
    def has_proxies(self) -> bool:
        """Whether the environment names any."""
        return bool(self._proxies)

    def proxy_for(self, url: URL) -> URL | None:
        """The proxy for ``url``; None: there is none, or ``NO_PROXY`` excepts the host."""
        origin = url.scheme, url.raw_host, url.port
        if origin not in self._chosen:
            proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
            host = url.raw_host or ""
            is_excepted = proxy_bypass(f"{host}:{url.port}") or proxy_bypass(host)
            self._chosen[origin] = None if is_excepted else proxy
        return self._chosen[origin]

    def proxy_name(self, url: URL) -> str:
        """What to call the proxy for ``url`` in a message; "" if there is none."""
        proxy = self.proxy_for(url) if self._proxies else None
        if proxy is None:
            return ""
        name = url.scheme if self._proxies.get(url.scheme) is proxy else "all"
        variables = (f"{name}_proxy", f"{name.upper()}_PROXY")
        variable = next((each for each in variables if os.environ.get(each)), "")
        where = f", from {variable}" if variable else ""
        return f"the proxy {proxy.raw_host}:{proxy.port}{where}"

    def tls_context(self) -> ssl.SSLContext | bool:
        """What certificates are checked by."""
        if self.insecure:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = self._trust
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert)
            except ssl.SSLError:
                raise ValueError(
                    f"--cert {self.cert} must have a certificate and its key, in PEM form"
                ) from None
        return context

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise ValueError(f"--cacert {self.ca} has no certificate in PEM form") from None


def _proxy(name: str, text: str) -> URL:
    """A proxy of the environment; its address may have a password, so messages leave it out."""
    variable = f"{name}_proxy" if sys.platform == "win32" else f"{name.upper()}_PROXY"
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise ValueError(
            "the proxy settings in the environment cannot be used: "
            f"{variable} must be an http:// or https:// address"
        )
    return url
