"""The demo's agent: one MCP session with supervise that lasts as long as the agent, and requests through egress.

Takes a command a line on stdin, answers in lines on stdout:
    get HOST        got STATUS SECONDS FIRST-LINE
    propose HOST    waiting, and when it is over: answered OUTCOME GENERATION, or failed WHY
    ping            pong SESSION, or failed WHY
"""

import asyncio
import http.client
import sys
import time

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

BUNDLE = "bundle"
sessions = set()


def say(text):
    print(" ".join(str(text).split())[:300], flush=True)


async def note_session(request):
    sessions.add(request.headers.get("mcp-session-id"))


def get(host):
    began = time.monotonic()
    connection = http.client.HTTPConnection(BUNDLE, 9080, timeout=15)
    try:
        connection.request("GET", f"http://{host}/", headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(4096).decode(errors="replace")
        return f"got {response.status} {time.monotonic() - began:.2f} {text}"
    except (OSError, http.client.HTTPException) as error:
        return f"got 0 {time.monotonic() - began:.2f} {error!r}"
    finally:
        connection.close()


def text_of(result):
    return result.content[0].text if result.content else "no text"


async def propose(client, host):
    waiting = False

    async def progress(_done, _total, _message):
        nonlocal waiting
        if not waiting:
            waiting = True
            say("waiting")

    try:
        async with asyncio.timeout(120):
            result = await client.call_tool(
                "propose_allowlist",
                {"domains": [host], "reason": "the task asks for a file from there"},
                progress_callback=progress,
            )
    except Exception as error:  # the demo reports every way in which a call can fail
        return say(f"failed {error!r}")
    if result.is_error:
        return say(f"failed {text_of(result)}")
    answer = result.structured_content
    say(f"answered {answer['outcome']} {answer['generation']}")


async def ping(client):
    try:
        async with asyncio.timeout(15):
            result = await client.call_tool("ping", {})
    except Exception as error:
        return say(f"failed {error!r}")
    # The first request of a session has no id yet.
    ids = sessions - {None}
    if result.is_error or len(ids) != 1:
        return say(f"failed {text_of(result)}, sessions: {len(ids)}")
    say(f"pong {ids.pop()}")


async def main():
    timeout = httpx2.Timeout(30, read=300)
    async with httpx2.AsyncClient(timeout=timeout, event_hooks={"request": [note_session]}) as http_client:
        transport = streamable_http_client(f"http://{BUNDLE}:9100/mcp", http_client=http_client)
        # "legacy": the protocol in which a session has an id and agents keep it open all day.
        async with Client(transport, mode="legacy") as client:
            say("connected")
            tasks = set()
            while line := (await asyncio.to_thread(sys.stdin.readline)).split():
                if line[0] == "get":
                    say(await asyncio.to_thread(get, line[1]))
                elif line[0] == "ping":
                    await ping(client)
                elif line[0] == "propose":
                    tasks.add(asyncio.create_task(propose(client, line[1])))


asyncio.run(main())
