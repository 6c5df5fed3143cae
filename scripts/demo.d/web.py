"""The demo's web server: plays every host of the internet, and prints for each request: HOST AUTHORIZATION."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.headers.get("Host", "-"), self.headers.get("Authorization", "-"), flush=True)
        body = f"hello from {self.headers.get('Host', '-')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# Port 80: in a container's own network namespace an unprivileged process may bind it.
server = ThreadingHTTPServer(("0.0.0.0", 80), Handler)
print("ready", flush=True)
server.serve_forever()
