"""Measures how long 127.0.0.1:8888 refuses connections, from inside the bundle's network namespace, until it gets
SIGTERM (2 minutes at most), then prints: refused_ms N times N tries N.
"""

import signal
import socket
import time

SECONDS = 120
stop = False


def stopped(*_):
    global stop
    stop = True


def accepted():
    try:
        socket.create_connection(("127.0.0.1", 8888), timeout=1).close()
        return True
    except OSError:
        return False


signal.signal(signal.SIGTERM, stopped)
print("ready", flush=True)
began = last = time.monotonic()
refused = 0.0
times = tries = 0
was_accepted = True
while not stop and time.monotonic() - began < SECONDS:
    tries += 1
    is_accepted = accepted()
    now = time.monotonic()
    if was_accepted and not is_accepted:
        times += 1
    # From the last accepted connection to the next one.
    if not (was_accepted and is_accepted):
        refused += now - last
    was_accepted, last = is_accepted, now
    time.sleep(0.002)
print(f"refused_ms {refused * 1000:.0f} times {times} tries {tries}", flush=True)
