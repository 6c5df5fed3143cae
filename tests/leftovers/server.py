"""The web server of tests/leftovers.rs: it serves the one line of its configuration, and isn't ended by TERM.

serve MANNER PORT FILE      until it is killed
background MANNER PORT FILE the same, gone into the background as daemons once did
lead PORT COMMAND...        runs COMMAND, and says READY=1 once somebody answers at PORT
ask PORT                    exits 0 if somebody answers
up PORT...                  returns once all of them answer
look PORT                   prints each line that is served there within a second, once
"""

import os
import signal
import socket
import subprocess
import sys
import time


def ask(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := client.recv(4096):
                answer += piece
    except OSError:
        return None
    return answer.decode().partition("\r\n\r\n")[2] or None


def wait_for(port):
    end = time.monotonic() + 20
    while ask(port) is None:
        if time.monotonic() > end:
            sys.exit(f"nobody answers at {port}")
        time.sleep(0.02)


def serve(manner, port, file):
    # It drains for as long as it has clients, and one of them never leaves.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(file) as rules:
        answer = ("HTTP/1.0 200 OK\r\n\r\n" + rules.read()).encode()
    if manner == "loads":
        time.sleep(1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if manner == "shares":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    while True:
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(64)
            break
        except OSError as error:
            if manner != "waits":
                sys.exit(str(error))
            time.sleep(0.02)
    while True:
        client, _ = listener.accept()
        client.settimeout(1)
        try:
            client.recv(4096)
            client.sendall(answer)
        except OSError:
            pass
        client.close()


def lead(port, command):
    child = subprocess.Popen(command)
    wait_for(port)
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", "\0" + path[1:] if path[0] == "@" else path)
    sys.exit(child.wait())


def main(what, *arguments):
    if what == "serve":
        serve(arguments[0], int(arguments[1]), arguments[2])
    elif what == "background":
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                serve(arguments[0], int(arguments[1]), arguments[2])
            os._exit(0)
        # It has a session of its own now: the death of this process takes the group with it.
        os.waitpid(child, 0)
    elif what == "lead":
        lead(int(arguments[0]), arguments[1:])
    elif what == "ask":
        sys.exit(ask(int(arguments[0])) is None)
    elif what == "up":
        for port in arguments:
            wait_for(int(port))
    elif what == "look":
        wait_for(int(arguments[0]))
        seen = set()
        for _ in range(50):
            seen.add(ask(int(arguments[0])) or "nobody")
            time.sleep(0.02)
        print(" and ".join(sorted(seen)))


main(*sys.argv[1:])
