"""A service with one session, which it takes for expired when it is older than a minute by the time of day, as many
services do with tokens and caches. It then logs in again: one request is refused, the next is served."""

import http.server
import sys
import time

session = time.time()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global session
        age = time.time() - session
        good = 0 <= age < 60
        if not good:
            session = time.time()
        body = b"served\n" if good else b"the session is %d s old\n" % age
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
