"""supervise: the MCP server that an agent stays connected to all day (streamable HTTP at /mcp, GET /health).

The agent is not trusted: what it sends is bounded and checked before it is logged or acted on, and no tool changes
anything. A proposal only asks; the operator decides, on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from types import FrameType
from typing import Annotated, Any, Literal

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import allowlist

PORT = 9100
PIPELOCK_CONFIG = "/etc/sidecar/pipelock/pipelock.yaml"
PIPELOCK_PORT = 8888
MAX_STATUS_BYTES = 1024 * 1024
STATUS_SECONDS = 5.0
# init drops a question when too many come at once.
ASK_SECONDS = 1.0
# How long a question waits for room in init's queue before it's sent again.
FULL_SECONDS = 0.05
# Pid, uid and gid of a message's sender.
CREDENTIALS = struct.Struct("3i")
# How long a proposal waits for the operator, and how many wait at once.
PROPOSAL_SECONDS = 600.0
MAX_PROPOSALS = 8
LOOK_SECONDS = 0.5
PROGRESS_SECONDS = 5.0
# A client that is quiet over lunch keeps its session; one that went away is forgotten the next day.
SESSION_SECONDS = 24 * 60 * 60
MAX_SESSIONS = 200

mcp = MCPServer(
    "supervise",
    instructions="Tells what the bundle's daemons are doing, and puts proposals for the allowlist before the operator.",
    # At INFO the SDK logs what a client sent, in its own words and at any length.
    log_level="WARNING",
)


class Answer(BaseModel):
    """What became of a proposal."""

    outcome: Literal["live", "already-listed", "not-answered"]
    domains: list[str]
    generation_before: int
    generation: int
    waited_ms: int
    note: str


def log(text: str) -> None:
    """One line in the bundle's log, where the operator reads."""
    print(text, flush=True)


async def bundle_status() -> dict[str, Any]:
    """What init tells about its daemons, over its sd_notify socket: this process can't look at PID 1 (its sandbox)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        raise ToolError("there is no NOTIFY_SOCKET: supervise wasn't started by a sidecar init")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.bind("")  # an abstract name that the kernel chooses: init answers no other
            async with asyncio.timeout(STATUS_SECONDS):
                data = await answer_of(sock, "\0" + address[1:] if address.startswith("@") else address)
        except TimeoutError:
            raise ToolError(f"PID 1 did not tell the bundle's status within {STATUS_SECONDS:g} s") from None
        except OSError as error:
            raise ToolError(f"cannot ask PID 1 for the bundle's status: {error.strerror}") from None
    try:
        status = json.loads(data)
        if not isinstance(status["daemons"], list):
            raise TypeError
        return status
    except (ValueError, KeyError, TypeError):
        raise ToolError("the bundle's status is not what `status --json` prints") from None


async def answer_of(sock: socket.socket, init: str) -> bytes:
    """Asks until init answers."""
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(sock, readable.set)
    try:
        while True:
            try:
                sock.sendto(b"STATUS?", init)
            except BlockingIOError:
                await asyncio.sleep(FULL_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS):
                    while True:
                        await readable.wait()
                        readable.clear()
                        with contextlib.suppress(BlockingIOError):
                            data, control, _, _ = sock.recvmsg(MAX_STATUS_BYTES, socket.CMSG_SPACE(CREDENTIALS.size))
                            if is_from_init(control):
                                return data
    finally:
        asyncio.get_running_loop().remove_reader(sock)


def is_from_init(control: list[tuple[int, int, bytes]]) -> bool:
    """Anybody in the bundle could answer. The kernel tells who did: unix(7), SCM_CREDENTIALS."""
    for _, kind, data in control:
        if kind == socket.SCM_CREDENTIALS and len(data) == CREDENTIALS.size:
            return CREDENTIALS.unpack(data)[0] == os.getppid()
    return False


def pipelock_of(status: dict[str, Any]) -> dict[str, Any]:
    for daemon in status["daemons"]:
        if daemon["name"] == "pipelock":
            return daemon
    raise ToolError("pipelock is not among this bundle's daemons: there is no allowlist to propose to")


def takes_connections(pipelock: dict[str, Any]) -> bool:
    """Whether pipelock listens. This process may not connect to it, and no sibling may listen there (their sandboxes)."""
    lines: list[str] = []
    for path in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(OSError), open(path) as file:
            lines += file.readlines()[1:]
    # Of each line: number, local address, remote address, state (proc_net_tcp.txt); 0A is LISTEN.
    sockets = [line.split()[1:4] for line in lines]
    return pipelock["state"] == "running" and any(
        local.endswith(f":{PIPELOCK_PORT:04X}") and state == "0A" for local, _, state in sockets
    )


def listed(domains: list[str]) -> bool:
    try:
        entries = allowlist.read(PIPELOCK_CONFIG)
    except (OSError, ValueError):
        # The operator may be in the middle of it. Not listed yet, in any case.
        return False
    return all(allowlist.holds(entries, domain) for domain in domains)


@mcp.tool()
async def ping() -> str:
    """Answers "pong" at once: the connection to supervise is alive."""
    return "pong"


@mcp.tool()
async def status() -> dict[str, Any]:
    """What each daemon of the bundle is doing: the status JSON of its init."""
    return await bundle_status()


stopping = asyncio.Event()
waiting = 0
proposals = 0


@mcp.tool()
async def propose_allowlist(
    domains: Annotated[
        list[Annotated[str, Field(max_length=255)]],
        Field(min_length=1, max_length=20, description='Host names, or "*." and one for it and every name below it.'),
    ],
    reason: Annotated[str, Field(min_length=1, max_length=500, description="Why, in a sentence: the operator reads it.")],
    ctx: Context,
) -> Answer:
    """Asks the operator to allow these domains, and waits: up to 10 minutes, until they are in effect.

    The answer's `outcome` is "live" (try the request again now), "already-listed" (nothing to wait for; if the request
    is refused all the same, the operator has yet to apply the list), or "not-answered" (nobody decided in time).
    """
    global waiting
    wanted: list[str] = []
    for domain in domains:
        name = allowlist.normalized(domain)
        if name is None:
            raise ToolError("each domain must be a host name, or `*.` and one of two labels or more, without scheme, port or path")
        if name not in wanted:
            wanted.append(name)
    if not reason.isprintable():
        raise ToolError("the reason must be one line of printable text")
    if waiting >= MAX_PROPOSALS:
        raise ToolError(f"{MAX_PROPOSALS} proposals wait for the operator already: wait for an answer to one of them")
    # Before any await, so that a burst of calls can't get past the limit above.
    waiting += 1
    try:
        return await proposed(wanted, reason, ctx)
    finally:
        waiting -= 1


async def proposed(wanted: list[str], reason: str, ctx: Context) -> Answer:
    """Submits the proposal to the operator and waits for the decision."""
    global proposals
    proposals += 1
    number, began = proposals, time.monotonic()
    before = pipelock_of(await bundle_status())["generation"]

    def answer(outcome: str, generation: int, note: str) -> Answer:
        ms = round((time.monotonic() - began) * 1000)
        log(f"proposal {number}: {outcome} after {ms} ms, pipelock generation {generation}")
        return Answer(
            outcome=outcome, domains=wanted, generation_before=before, generation=generation, waited_ms=ms, note=note
        )

    asked = f"proposal {number}: allow {', '.join(wanted)}; reason: {json.dumps(reason)}"
    if listed(wanted):
        log(asked)
        note = "the allowlist holds these already; where they are refused, the operator has yet to apply it"
        return answer("already-listed", before, note)
    log(f"{asked}. To grant it, add that to api_allowlist in pipelock.yaml and run apply-allowlist")
    try:
        told = began - PROGRESS_SECONDS
        generation = before
        # The newest generation seen while the list lacked a domain: only a later one is known to have read all of them.
        lacking = before
        while (now := time.monotonic()) - began < PROPOSAL_SECONDS:
            if now - told >= PROGRESS_SECONDS:
                told = now
                # Sent only where the caller asked for it.
                await ctx.report_progress(now - began, PROPOSAL_SECONDS, "waiting for the operator")
            try:
                pipelock = pipelock_of(await bundle_status())
                generation = pipelock["generation"]
                if not listed(wanted):
                    lacking = generation
                elif generation > lacking and takes_connections(pipelock):
                    return answer("live", generation, f"pipelock was replaced, and its allowlist holds {', '.join(wanted)}")
            except ToolError:
                # A busy machine. The next look may tell.
                pass
            if stopping.is_set():
                log(f"proposal {number}: unanswered, supervise stops")
                raise ToolError("supervise is being stopped: propose again when it's back")
            await asyncio.sleep(LOOK_SECONDS)
        return answer("not-answered", generation, "the operator has not put it into effect in time")
    except asyncio.CancelledError:
        log(f"proposal {number}: withdrawn")
        raise


@mcp.custom_route("/health", methods=["GET"])
async def health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Waiting proposals are answered before their connections are cut."""
        stopping.set()
        super().handle_exit(sig, frame)


def held_socket() -> socket.socket | None:
    """The socket that init holds for this process, if it does: sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    held = socket.socket(fileno=3)
    held.set_inheritable(False)
    return held


def main() -> None:
    # Clients reach it under whatever name the network gives the bundle, so the Host header isn't checked; there is no
    # browser in that network which a page could make talk to it.
    app = mcp.streamable_http_app(host="0.0.0.0", session_idle_timeout=SESSION_SECONDS, max_sessions=MAX_SESSIONS)
    # A stream that a client holds open must not cost a shutdown its whole grace.
    config = uvicorn.Config(
        app, host="0.0.0.0", port=PORT, log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    held = held_socket()
    Server(config).run([held] if held else None)


if __name__ == "__main__":
    main()
