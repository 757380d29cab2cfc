"""A webhook that records what it is sent.

Each POST becomes a line of JSON in the file RECORD, whole, for ask.py; and a short one on stdout, for `kubectl logs`.
GET /-/hold makes later POSTs wait for their answers until GET /-/release, GET / says that the receiver is there.
"""

import json
import os
import sys
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RECORD = os.environ["RECORD"]
lock = threading.Lock()
may_answer = threading.Event()
may_answer.set()
arrived = 0


def record(path, headers, raw):
    """Numbers a request and writes it down, before it is answered."""
    global arrived
    body = json.loads(raw)
    pod = body["pod"]
    with lock:
        arrived += 1
        line = {
            "number": arrived,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "path": path,
            "headers": {name.lower(): value for name, value in headers.items()},
            "raw": raw.decode(),
        }
        with open(RECORD, "a", encoding="utf-8") as file:
            print(json.dumps(line), file=file, flush=True)
        short = {
            "number": arrived,
            "path": path.partition("?")[0],
            "type": headers["ce-type"],
            "id": headers["ce-id"],
            "pod": f"{pod['metadata']['namespace']}/{pod['metadata']['name']}",
            "phase": pod.get("status", {}).get("phase"),
            "from": body["env"].get("HOSTNAME"),
        }
        print(json.dumps(short), flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/-/hold":
            may_answer.clear()
        elif self.path == "/-/release":
            may_answer.set()
        self.answer(200)

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        try:
            record(self.path, self.headers, raw)
        except (KeyError, TypeError, ValueError) as error:
            print(f"not what k8vent sends: {error!r} {raw[:200]!r}", file=sys.stderr, flush=True)
            return self.answer(400)
        may_answer.wait()
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Says nothing: `record` does."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


open(RECORD, "a", encoding="utf-8").close()
Server(("", 8080), Receiver).serve_forever()
