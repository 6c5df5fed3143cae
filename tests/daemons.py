"""What is ours of the bundle's daemons, without a container: python3 tests/daemons.py. What the Python ones import from
PyPI is played by a few lines here, gitleaks by a script; with the real ones they run in tests/bundle.rs."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Anything:
    """Takes whatever it is given, and as a decorator gives the function back."""

    def __init__(self, *arguments, **named):
        self.__dict__.update(named)

    def tool(self):
        return lambda function: function

    def custom_route(self, *arguments, **named):
        return lambda function: function


class ToolError(Exception):
    pass


def play(name, **members):
    """A module of that name, and each package above it."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(parts[end - 1]))
    sys.modules[name].__dict__.update(members)


play("uvicorn", Server=Anything, Config=Anything)
play("mcp.server.mcpserver", Context=Anything, MCPServer=Anything)
play("mcp.server.mcpserver.exceptions", ToolError=ToolError)
play("pydantic", BaseModel=Anything, Field=Anything)
play("starlette.requests", Request=Anything)
play("starlette.responses", JSONResponse=Anything, Response=Anything)
play("mitmproxy", http=types.SimpleNamespace(HTTPFlow=Anything))
yaml = dict.fromkeys(["YAML", "MappingNode", "Node", "ScalarNode", "SequenceNode"], Anything)
play("ruamel.yaml", YAMLError=ValueError, **yaml)
sys.path[:0] = [str(ROOT / "bundle" / "supervise"), str(ROOT / "bundle" / "egress")]

sys.dont_write_bytecode = True
import addon  # noqa: E402
import server  # noqa: E402


class Supervise(unittest.IsolatedAsyncioTestCase):
    async def test_of_a_burst_of_proposals_no_more_wait_than_may_and_each_place_is_free_again_afterwards(self):
        asked = asyncio.Event()

        async def bundle_status(*_):
            # As the real one: it takes a while, and others run meanwhile.
            await asked.wait()
            return {"daemons": [{"name": "pipelock", "generation": 1}]}

        server.bundle_status = bundle_status
        server.listed = lambda _: False
        server.PROPOSAL_SECONDS = 0
        server.log = lambda _: None
        for _ in range(2):
            asked.clear()
            calls = [asyncio.create_task(server.propose_allowlist(["a.test"], "why", Anything())) for _ in range(50)]
            # Each has run up to where it waits.
            await asyncio.sleep(0)
            asked.set()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, ToolError)]
            self.assertEqual(len(answers) - len(refused), server.MAX_PROPOSALS)
            self.assertIn("8 proposals wait", str(refused[0]))
        self.assertEqual(server.waiting, 0)


class Status(unittest.IsolatedAsyncioTestCase):
    async def test_only_inits_own_answer_is_taken_for_the_status(self):
        address = f"\0sidecar-test-{os.getpid()}"
        # init is the parent of the daemon: here, of a program that this process starts.
        program = "import asyncio, json, daemons as d; print(json.dumps(asyncio.run(d.server.bundle_status())))"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as init:
            init.bind(address)
            init.settimeout(30)
            environment = {**os.environ, "NOTIFY_SOCKET": "@" + address[1:], "PYTHONPATH": str(ROOT / "tests")}
            asks = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
            words, name = init.recvfrom(100)
            forge = 'import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b\'{"daemons": ["forged"]}\', b"\\0" + sys.argv[1].encode())'
            subprocess.check_call([sys.executable, "-c", forge, name[1:].decode()])
            # As init does it: from a socket without a name.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answers:
                answers.sendto(b'{"daemons": []}', name)
            self.assertEqual((words, asks.communicate(timeout=30)[0]), (b"STATUS?", b'{"daemons": []}\n'))


class Notify(unittest.TestCase):
    def setUp(self):
        self.init = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.init.close)
        self.init.bind("")  # the kernel finds an abstract name
        self.address = self.init.getsockname()
        os.environ["NOTIFY_SOCKET"] = "@" + self.address[1:].decode()

    def fill(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            for count in range(100_000):
                try:
                    stranger.sendto(b"flood", self.address)
                except BlockingIOError:
                    return count
        raise AssertionError("a queue without an end")

    def test_words_to_a_full_queue_arrive_in_their_order_once_there_is_room_and_whoever_says_them_does_not_wait(self):
        flood = self.fill()
        addon.notify("RELOADING=1")
        addon.notify("READY=1")
        self.init.settimeout(30)
        for _ in range(flood):
            self.assertEqual(self.init.recv(100), b"flood")
        self.assertEqual([self.init.recv(100), self.init.recv(100)], [b"RELOADING=1", b"READY=1"])

    def test_a_word_for_which_there_is_room_is_sent_by_the_thread_that_says_it(self):
        with unittest.mock.patch.object(addon.sender, "submit", side_effect=AssertionError("another thread")):
            addon.notify("READY=1")
        self.init.settimeout(30)
        self.assertEqual(self.init.recv(100), b"READY=1")

    def test_a_queue_that_stays_full_is_given_up_and_told(self):
        self.fill()
        seconds, tries = addon.SEND_SECONDS, addon.SEND_TRIES
        addon.SEND_SECONDS, addon.SEND_TRIES = 0.001, 3
        try:
            with self.assertLogs("egress", "WARNING") as logs:
                addon.notify("READY=1")
                addon.sender.submit(lambda: None).result(30)
        finally:
            addon.SEND_SECONDS, addon.SEND_TRIES = seconds, tries
        self.assertIn("its queue was full", logs.output[0])


class GitGate(unittest.TestCase):
    def scan(self, gitleaks):
        """What the hook answers to the push of a commit if gitleaks is this script."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            (path / "gitleaks").write_text(f"#!/bin/sh\ncat > /dev/null\n{gitleaks}\n")
            (path / "gitleaks").chmod(0o755)
            environment = {
                "PATH": f"{directory}:{os.environ['PATH']}",
                "HOME": directory,
                "GIT_CONFIG_NOSYSTEM": "1",
                **{f"GIT_{who}_{what}": "a@b.test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
            }

            def git(*arguments):
                return subprocess.check_output(["git", *arguments], cwd=path / "r.git", env=environment, text=True).strip()

            (path / "r.git").mkdir()
            git("init", "--quiet", "--bare")
            commit = git("commit-tree", "-m", "x", git("hash-object", "-wt", "tree", "/dev/null"))
            hook = ROOT / "bundle" / "git-gate" / "hooks" / "pre-receive"
            return subprocess.run(
                ["bash", hook], cwd=path / "r.git", env=environment, capture_output=True, text=True, timeout=60,
                input=f"{'0' * 40} {commit} refs/heads/main\n",
            )  # fmt: skip

    def test_a_push_whose_scan_is_ended_by_a_stop_of_git_gate_is_refused_with_that_reason(self):
        # What timeout ends with if it, and with it gitleaks, gets TERM.
        answer = self.scan("exit 143")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("git-gate was stopped while it scanned the pushed commits. Nothing was accepted: push again", answer.stderr)

    def test_a_push_whose_scan_finds_nothing_is_taken_and_one_whose_scan_fails_is_refused(self):
        self.assertEqual(self.scan("exit 0").returncode, 0)
        failed = self.scan("exit 1")
        self.assertEqual(failed.returncode, 1)
        self.assertIn("could not be scanned (gitleaks: exit 1). Nothing was accepted", failed.stderr)


if __name__ == "__main__":
    unittest.main()
