#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""image_server: a server of images on loopback, that misbehaves as it is told

usage: image_server.py DIR LOG

Serves the files below DIR, with ETag and Range; its port is the first line of its output. What it does beside that is in the file DIR/.switches, a word
and its value a line, read anew for each request; each concerns paths that end with the value's first word:

    cut SUFFIX N       the connection ends after N bytes of the body, once for each request that begins before N
    lie SUFFIX N       Content-Length is N
    slow SUFFIX N      up to the Nth byte, then nothing
    pace SUFFIX N      N bytes a second
    loop SUFFIX        a redirect to itself
    file SUFFIX        a redirect to file:///etc/passwd
    endless SUFFIX     zeroes without end
    etag SUFFIX TEXT   another ETag

LOG gets a line for each request: PATH RANGE STATUS, with "-" for no range.
"""
import hashlib
import http.server
import os
import re
import socketserver
import sys
import time

DIR, LOG = sys.argv[1:3]


def switches(path):
    found = {}
    try:
        with open(os.path.join(DIR, ".switches"), encoding="ascii") as stream:
            for line in stream:
                word, suffix, *value = line.split()
                if path.endswith(suffix):
                    found[word] = value[0] if value else ""
    except FileNotFoundError:
        pass
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):  # noqa: A002
        pass

    def note(self, status):
        with open(LOG, "a", encoding="ascii") as stream:
            print(self.path, self.headers.get("Range", "-").replace(" ", ""), status, file=stream)

    def redirect(self, where):
        self.note(302)
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def endless(self):
        self.note(200)
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while True:
            self.wfile.write(bytes(1 << 20))

    def body(self, data, first, how):
        if "slow" in how:
            self.wfile.write(data[:max(0, int(how["slow"]) - first)])
            self.wfile.flush()
            time.sleep(3600)
        elif "pace" in how:
            step = max(1, int(how["pace"]) // 10)
            for at in range(0, len(data), step):
                self.wfile.write(data[at:at + step])
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(data)

    def serve(self, data, how):
        etag = '"%s"' % (how.get("etag") or hashlib.sha1(data).hexdigest())
        first, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range", etag) == etag:
            first = int(wanted[1])
        status = 206 if first else 200
        if first >= len(data) and first:
            status = 416
        self.note(status)
        self.send_response(status)
        rest = data[first:] if status != 416 else b""
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", how.get("lie", str(len(rest))))
        self.send_header("ETag", etag)
        self.end_headers()
        if "cut" in how and first < int(how["cut"]):
            self.wfile.write(rest[:int(how["cut"]) - first])
            self.close_connection = True
            return
        self.body(rest, first, how)
        if "lie" in how:
            self.close_connection = True

    def do_GET(self):
        how = switches(self.path)
        path = os.path.join(DIR, self.path.lstrip("/"))
        try:
            if "loop" in how:
                self.redirect(self.path)
            elif "file" in how:
                self.redirect("file:///etc/passwd")
            elif "endless" in how:
                self.endless()
            elif os.path.isfile(path):
                with open(path, "rb") as stream:
                    self.serve(stream.read(), how)
            else:
                self.note(404)
                self.send_error(404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
