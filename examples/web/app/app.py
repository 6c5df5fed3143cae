import http.server
import socket

import jobs


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, text):
        body = (text + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            return self.answer("ok")
        queued, done = jobs.connect().execute("select count(*) filter (where not is_done), count(*) filter (where is_done) from job").fetchone()
        self.answer(f"{queued} queued, {done} done")

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        job = jobs.connect().execute("insert into job (text) values (?) returning id", (text,)).fetchone()[0]
        self.answer(f"queued as job {job}")

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler, bind_and_activate=False)
# The first socket that init holds (LISTEN_FDS). It listens already.
server.socket = socket.socket(fileno=3)
print("serving")
server.serve_forever()
