"""Calls every daemon of a bundle without a pause, from inside its network namespace, until stdin ends (or MINUTES, the
first argument, have passed). Prints a JSON object a line, all times in seconds of CLOCK_MONOTONIC:

    {"ready": true}                                     each of them has been served once
    {"who", "since", "until", "error"}                  a call that failed; a session's ones since it was last known good
    {"who", "from", "to", "failed"}                     from the last call that was served to the first that is again
    {"calls": {WHO: N}}                                 the last line
"""

import asyncio
import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mcp import Client

PAUSE = 0.04
# Under load a call may take long; one that takes this long has failed.
PATIENCE = 30

stop = threading.Event()
said = threading.Lock()
calls = {}
served = set()


def say(**fields):
    with said:
        print(json.dumps(fields), flush=True)


class Web(BaseHTTPRequestHandler):
    """Plays the internet."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Quick(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """Whoever asked was killed meanwhile."""


def get(port, url):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", url, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {body[:100]!r}")
    finally:
        connection.close()


async def ls_remote():
    """What `git ls-remote` asks first; git's own would be a process or two for each call."""
    reader, writer = await asyncio.open_connection("127.0.0.1", 9418)
    try:
        request = b"git-upload-pack /.ready.git\0host=127.0.0.1\0"
        writer.write(b"%04x" % (len(request) + 4) + request)
        line = await reader.readexactly(4)
        # A repository without a reference: capabilities, or nothing at all.
        text = await reader.readexactly(max(0, int(line, 16) - 4))
        if text.startswith(b"ERR"):
            raise RuntimeError(text)
        writer.write(b"0000")
        await writer.drain()
        await reader.read()
    finally:
        writer.close()


class Log:
    """What became of one daemon's calls."""

    def __init__(self, who):
        self.who = who
        self.good = time.monotonic()
        self.failed = 0
        calls[who] = 0

    def ok(self):
        now = time.monotonic()
        calls[self.who] += 1
        if self.failed:
            say(who=self.who, **{"from": self.good}, to=now, failed=self.failed)
        elif self.who not in served:
            served.add(self.who)
        self.good, self.failed = now, 0

    def bad(self, since, error):
        calls[self.who] += 1
        self.failed += 1
        say(who=self.who, since=since, until=time.monotonic(), error=repr(error)[:300])


async def repeat(who, call):
    log = Log(who)
    while not stop.is_set():
        since = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                await call()
            log.ok()
        except Exception as error:  # however a call fails is what is to be told
            log.bad(since, error)
        await asyncio.sleep(PAUSE)


async def session():
    """One MCP session for as long as it lives, then another."""
    log = Log("supervise")
    while not stop.is_set():
        since = time.monotonic()
        try:
            async with Client("http://127.0.0.1:9100/mcp", mode="legacy") as client:
                while not stop.is_set():
                    async with asyncio.timeout(PATIENCE):
                        answer = await client.call_tool("ping", {})
                    if answer.is_error:
                        raise RuntimeError(answer.content)
                    log.ok()
                    since = log.good
                    await asyncio.sleep(PAUSE)
        except Exception as error:  # as above
            log.bad(since, error)
            await asyncio.sleep(PAUSE)


def until_the_end(seconds):
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    sys.stdin.readline()
    stop.set()


async def tell_when_served(names):
    while not stop.is_set():
        if served >= names:
            return say(ready=True)
        await asyncio.sleep(0.05)


async def main():
    web = Quick(("127.0.0.1", 8000), Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    threading.Thread(target=until_the_end, args=(float(sys.argv[1]) * 60,), daemon=True).start()

    def http_call(port, url):
        return lambda: asyncio.to_thread(get, port, url)

    each = {
        # mitmdump answers this one itself, without pipelock.
        "egress": http_call(9080, "http://mitm.it/"),
        "pipelock": http_call(8888, "http://web.test:8000/"),
        "egress and pipelock": http_call(9080, "http://web.test:8000/"),
        "git-gate": ls_remote,
    }
    await asyncio.gather(
        session(), tell_when_served(each.keys() | {"supervise"}), *(repeat(who, call) for who, call in each.items())
    )
    say(calls=calls)


asyncio.run(main())
