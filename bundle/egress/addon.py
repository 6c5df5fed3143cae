"""mitmproxy addon of egress: sets each route's headers, takes new routes on SIGHUP, and tells init so (sd_notify)."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor

from mitmproxy import http

import routes  # beside this file, whose directory mitmproxy puts on the path

logger = logging.getLogger("egress")
# Three lines for each connection that opens and closes: they would bury what is said here.
logging.getLogger("mitmproxy.proxy.server").setLevel(logging.WARNING)


# How long a message waits for room in init's queue, and how often. Anyone in the bundle's network namespace can fill it.
SEND_SECONDS = 0.25
SEND_TRIES = 20
# Not the proxy's own thread, where every connection would wait too. One thread, so that messages keep their order.
sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notify")
# The last message that was left to that thread.
waiting: Future[None] | None = None


def notify(*fields: str) -> None:
    """One datagram to NOTIFY_SOCKET, from this very process: init checks the sender's pid.

    From this very thread too, if there is room: gVisor gives the number of the thread as the sender's pid.
    """
    global waiting
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    datagram = "\n".join(fields).encode()
    if (waiting is None or waiting.done()) and send_at_once(datagram, address):
        return
    waiting = sender.submit(send, datagram, address)


def send_at_once(datagram: bytes, address: str) -> bool:
    """Whether there was room for it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(datagram, socket.MSG_DONTWAIT, address)
    except OSError:
        # `send` tells why.
        return False
    return True


def send(datagram: bytes, address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        # The kernel's own time-out: waiting senders get in by turns, but one that polls a full queue, as Python's
        # settimeout does, never gets in.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, int(SEND_SECONDS * 1_000_000)))
        for _ in range(SEND_TRIES):
            try:
                sock.sendto(datagram, address)
                return
            except BlockingIOError:
                continue
            except OSError as error:
                logger.warning("cannot notify init: %s", error.strerror)
                return
    logger.warning("cannot notify init: its queue was full for %g s", SEND_SECONDS * SEND_TRIES)


class Egress:
    def __init__(self, path: str) -> None:
        self.path = path
        self.routes: tuple[routes.Route, ...] = ()

    def load(self, loader: object) -> None:
        """At the start a refused file ends mitmdump: there are no old routes to keep."""
        try:
            self.routes = routes.load(self.path)
        except routes.RoutesError as error:
            logger.error("%s is refused: %s", self.path, error)

    def running(self) -> None:
        """The port listens by now (mitmproxy binds it before this event)."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
        logger.info("routes in %s: %d", self.path, len(self.routes))
        notify("READY=1", f"STATUS=routes: {len(self.routes)}")

    def reload(self) -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            self.routes = routes.load(self.path)
        except routes.RoutesError as error:
            logger.error("%s is refused, the routes from before stay: %s", self.path, error)
            notify("READY=1", f"ERRNO={errno.EINVAL}", f"STATUS={self.path} is refused: {error}")
            return
        logger.info("reloaded, routes in %s: %d", self.path, len(self.routes))
        notify("READY=1", f"STATUS=routes: {len(self.routes)}")

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        request = flow.request
        # The host that is connected to decides. A Host header that names another one (fronting) gets no credential.
        if request.pretty_host.lower() != request.host.lower():
            return
        for route in self.routes:
            if route.matches(request.scheme, request.host, request.path):
                for name, value in route.headers:
                    request.headers[name] = value
                return


addons = [Egress(os.environ.get("EGRESS_ROUTES", "/etc/sidecar/egress/routes.yaml"))]
