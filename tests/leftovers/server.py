"""The server of tests/leftovers.rs: it serves the one line of its configuration, and isn't ended by TERM.

serve MANNER ADDRESS FILE      until it is killed
background MANNER ADDRESS FILE the same, gone into the background as daemons once did
lead ADDRESS COMMAND...        runs COMMAND, and says READY=1 once somebody answers at ADDRESS
health PORT COMMAND...         runs COMMAND, and answers at PORT by itself
agent PATH                     listens at PATH in a session of its own; the one that was there before is ended
ask ADDRESS                    exits 0 if somebody answers
up ADDRESS...                  returns once all of them answer
look ADDRESS                   prints each line that is served there within a second, once

An ADDRESS is tcp:PORT, udp:PORT, unix:PATH or datagrams:PATH.
"""

import os
import signal
import socket
import subprocess
import sys
import time

KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "datagrams": (socket.AF_UNIX, socket.SOCK_DGRAM),
}


def parse(address):
    """A new socket of that kind, and what it is bound or connected to."""
    kind, where = address.split(":")
    family, what = KINDS[kind]
    return socket.socket(family, what), ("127.0.0.1", int(where)) if family == socket.AF_INET else where


def ask(address):
    client, where = parse(address)
    answer = b""
    with client:
        try:
            client.settimeout(1)
            if address.startswith("datagrams"):
                # The kernel gives it a name, to which it can be answered.
                client.bind("")
            client.connect(where)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while piece := client.recv(4096):
                answer += piece
                if client.type == socket.SOCK_DGRAM:
                    break
        except OSError:
            return None
    return answer.decode().partition("\r\n\r\n")[2] or None


def wait_for(address):
    end = time.monotonic() + 20
    while ask(address) is None:
        if time.monotonic() > end:
            sys.exit(f"nobody answers at {address}")
        time.sleep(0.02)


def bound(manner, address):
    server, where = parse(address)
    if server.family == socket.AF_UNIX:
        if os.path.exists(where):
            # Of one that has ended only the name is left. Who shares takes the name from one that lives.
            with parse(address)[0] as client:
                if manner == "shares" or client.connect_ex(where) != 0:
                    os.unlink(where)
    else:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, server.type == socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, manner == "shares")
    server.bind(where)
    if server.family == socket.AF_UNIX:
        # Who asks may be another user.
        os.chmod(where, 0o777)
    if server.type == socket.SOCK_STREAM:
        server.listen(64)
    return server


def serve(manner, address, file):
    # It drains for as long as it has clients, and one of them never leaves.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(file) as rules:
        answer = ("HTTP/1.0 200 OK\r\n\r\n" + rules.read()).encode()
    if manner == "loads":
        time.sleep(1)
    while True:
        try:
            server = bound(manner, address)
            break
        except OSError as error:
            if manner != "waits":
                sys.exit(str(error))
            time.sleep(0.02)
    while True:
        try:
            if server.type == socket.SOCK_DGRAM:
                server.sendto(answer, server.recvfrom(4096)[1])
                continue
            client, _ = server.accept()
            with client:
                client.settimeout(1)
                client.recv(4096)
                client.sendall(answer)
        except OSError:
            pass


def lead(address, command):
    child = subprocess.Popen(command)
    wait_for(address)
    path = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", "\0" + path[1:] if path[0] == "@" else path)
    sys.exit(child.wait())


def health(port, command):
    # What is run mustn't hold this port, too.
    listener = bound("", f"tcp:{port}")
    subprocess.Popen(command)
    while True:
        listener.accept()[0].close()


def agent(path):
    try:
        with open(path + ".pid") as file:
            os.kill(int(file.read()), signal.SIGKILL)
        os.unlink(path)
    except OSError:
        pass
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        if child := os.fork():
            with open(path + ".pid", "w") as file:
                print(child, file=file)
            return
        os.setsid()
        signal.pause()


def main(what, *arguments):
    if what == "serve":
        serve(*arguments)
    elif what == "background":
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                serve(*arguments)
            os._exit(0)
        # It has a session of its own now: the death of this process takes the group with it.
        os.waitpid(child, 0)
    elif what == "lead":
        lead(arguments[0], arguments[1:])
    elif what == "health":
        health(arguments[0], arguments[1:])
    elif what == "agent":
        agent(arguments[0])
    elif what == "ask":
        sys.exit(ask(arguments[0]) is None)
    elif what == "up":
        for address in arguments:
            wait_for(address)
    elif what == "look":
        wait_for(arguments[0])
        seen = set()
        for _ in range(50):
            seen.add(ask(arguments[0]))
            time.sleep(0.02)
        # On a loaded machine one may have been too slow.
        print(" and ".join(sorted(seen - {None})))


main(*sys.argv[1:])
