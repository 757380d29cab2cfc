"""Appends the body of every POST to a file."""

import http.server
import sys

port, file = sys.argv[1:]


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(file, "ab") as bodies:
            bodies.write(body + b"\n")
        self.send_response(204)
        self.end_headers()


http.server.ThreadingHTTPServer(("", int(port)), Receiver).serve_forever()
