"""The demo's second client: calls supervise without a pause, in one MCP session, until it gets SIGTERM (10 minutes at
most), then prints: calls N failed N longest_ms N.
"""

import asyncio
import signal
import time

from mcp import Client

SECONDS = 600


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    calls = failed = 0
    longest = 0.0
    ends = time.monotonic() + SECONDS
    async with Client("http://bundle:9100/mcp", mode="legacy") as client:
        print("ready", flush=True)
        while not stop.is_set() and time.monotonic() < ends:
            began = time.monotonic()
            calls += 1
            try:
                async with asyncio.timeout(10):
                    result = await client.call_tool("ping", {})
                if result.is_error:
                    raise RuntimeError(result.content)
            except Exception as error:
                failed += 1
                print(f"failed: {error!r}", flush=True)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.02)
    print(f"calls {calls} failed {failed} longest_ms {longest * 1000:.0f}", flush=True)


asyncio.run(main())
