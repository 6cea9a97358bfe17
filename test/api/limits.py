#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""limits: be a client that lodged must survive, and see that others are served

usage: limits.py SOCKET WHAT        (WHAT: a function below, without its "test_")

Exit status 0: lodged did what it should; what it did not is the last line of an AssertionError. Numbers worth reading go to stdout as "# ...".
"""
import asyncio
import json
import socket
import sys
import time

PATH = sys.argv[1]
JSON = "Content-Type: application/json\r\n"


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    for _ in range(3000):
        try:
            s.connect(PATH)
            return s
        except BlockingIOError:  # the queue is full
            time.sleep(0.01)
    raise AssertionError("the queue of connections stays full")


def text(method, path, body=b"", headers=""):
    body = body.encode() if isinstance(body, str) else body
    head = f"{method} {path} HTTP/1.1\r\nHost: l\r\n{headers}"
    if body or method in ("POST", "PUT", "PATCH"):
        head += f"{JSON}Content-Length: {len(body)}\r\n"
    return head.encode("utf-8", "surrogateescape") + b"\r\n" + body


def answers(s, count=1, body=True):
    """[(status, headers, body)] of as many answers as come, at most @count."""
    out, data, stream = [], b"", s.makefile("rb")
    try:
        while len(out) < count:
            line = stream.readline()
            if not line:
                break
            headers = {}
            while (data := stream.readline().strip()):
                key, _, value = data.decode("latin-1").partition(":")
                headers[key.lower()] = value.strip()
            n = int(headers.get("content-length", "0"))
            out.append((int(line.split()[1]), headers, stream.read(n if body else 0)))
    except ConnectionResetError:
        pass
    return out


def ask(method, path, body=b"", headers="", raw=None):
    """(status, id of the error, headers, body); status 0: the connection was closed without an answer."""
    with connect() as s:
        try:
            s.sendall(raw if raw is not None else text(method, path, body, headers))
            if raw is not None:
                s.shutdown(socket.SHUT_WR)  # what is missing does not come
        except (BrokenPipeError, ConnectionResetError):
            pass
        got = answers(s, body=method != "HEAD")
    if not got:
        return 0, None, {}, b""
    status, head, content = got[0]
    value = json.loads(content) if content and head.get("content-type") == "application/json" else {}
    return status, value.get("error", {}).get("id") if isinstance(value, dict) else None, head, content


def served(within=2.0):
    start = time.monotonic()
    status = ask("GET", "/v1/machines")[0]
    took = time.monotonic() - start
    assert status == 200, f"others are answered {status}"
    assert took < within, f"others wait for {took:.1f} s"
    return took


def define(name, headers="", query="", **more):
    return ask("POST", "/v1/machines" + query, json.dumps({"name": name, "kernel": "/nonexistent/kernel", **more}), headers)


# ---- many, and slow ---------------------------------------------------------------------------------------------------


async def busy(until, count):
    while time.monotonic() < until:
        reader, writer = await asyncio.open_unix_connection(PATH)
        writer.write(text("GET", "/v1/machines"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        count[0] += 1
        writer.close()


async def one_more(until, times):
    while time.monotonic() < until:
        start = time.monotonic()
        reader, writer = await asyncio.open_unix_connection(PATH)
        writer.write(text("GET", "/v1/machines"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        times.append(time.monotonic() - start)
        writer.close()
        await asyncio.sleep(0.02)


async def crowd():
    idle = [await asyncio.open_unix_connection(PATH) for _ in range(1000)]
    until, count, times = time.monotonic() + 5, [0], []
    await asyncio.gather(one_more(until, times), *[busy(until, count) for _ in range(200)])
    times.sort()
    print(f"# 1000 idle and 200 busy clients: {count[0] / 5:.0f} requests/s; another one waits {times[len(times) // 2] * 1000:.0f} ms "
          f"(median), {times[-1] * 1000:.0f} ms (longest of {len(times)})")
    for _, writer in idle:  # they were not forgotten
        writer.write(text("GET", "/v1/machines"))
    for reader, writer in idle:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


def test_crowd():
    asyncio.run(crowd())
    served()


def test_flood():
    """More connections than there may be: the ones that are idle for longest go, and the newest is served."""
    many = []
    for _ in range(2500):
        s = connect()
        s.setblocking(False)
        many.append(s)
    served(10)
    for s in many:
        s.close()
    served(10)


def drip(s, data, until):
    """One byte a second, until the other side has enough of it."""
    for byte in data:
        if time.monotonic() > until:
            return False
        try:
            s.send(bytes([byte]))
            s.setblocking(False)
            if s.recv(1) == b"":
                return True
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            return True
        s.setblocking(True)
        time.sleep(1)
    return False


def test_slow():
    """A head, a body, and a reader that take for ever; 60 of them, while others are served."""
    import threading
    start, until, ended = time.monotonic(), time.monotonic() + 45, []

    def run(kind):
        s = connect()
        if kind == "head":
            done = drip(s, b"GET /v1 HTTP/1.1\r\nHost: l\r\nX-Long: " + b"x" * 100, until)
        elif kind == "body":
            s.sendall(b"POST /v1/machines HTTP/1.1\r\nHost: l\r\nContent-Length: 100\r\n\r\n")
            done = drip(s, b"{" * 100, until)
        else:  # asks for some megabytes and takes none of them
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(text("GET", "/v1/openapi.json"))
            time.sleep(30)
            done = True
        ended.append((kind, done, time.monotonic() - start))
        s.close()

    threads = [threading.Thread(target=run, args=(kind,)) for kind in ["head", "body", "reader"] * 20]
    for t in threads:
        t.start()
    longest = 0
    while any(t.is_alive() for t in threads):
        longest = max(longest, served())
        time.sleep(0.2)
    for kind in ("head", "body", "reader"):
        mine = [e for e in ended if e[0] == kind]
        assert len(mine) == 20 and all(done for _, done, _ in mine), f"a slow {kind} was not cut: {mine}"
        if kind != "reader":
            print(f"# 20 clients that send their {kind} slowly: cut after {min(e[2] for e in mine):.0f} to {max(e[2] for e in mine):.0f} s")
    print(f"# meanwhile the longest wait of another client was {longest * 1000:.0f} ms")


# ---- large, and odd ---------------------------------------------------------------------------------------------------


def test_large():
    big = b"{\"name\":\"" + b"x" * (1 << 20) + b"\"}"
    assert ask("POST", "/v1/machines", big)[:2] == (413, "body-too-large")
    chunked = b"POST /v1/machines HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(32))
    assert ask("", "", raw=chunked + chunks + b"0\r\n\r\n")[:2] == (413, "body-too-large")
    assert ask("", "", raw=chunked + chunks * 20 + b"0\r\n\r\n")[0] in (0, 413), "40 MB were taken"
    for length in ("1099511627776", "9223372036854775807", "18446744073709551616", "-1", "x", "1, 2", ""):
        assert ask("", "", raw=f"POST /v1/machines HTTP/1.1\r\nHost: l\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{{}}".encode()
                   )[0] in (0, 400, 413), f"Content-Length {length}"
    for size in (b"zz", b"-1", b"ffffffffffffffff1", b"7fffffffffffffff"):
        ask("", "", raw=chunked + size + b"\r\nxxx\r\n0\r\n\r\n")
        served()
    assert ask("POST", "/v1/machines", big, "Expect: 100-continue\r\n")[0] == 413
    assert ask("GET", "/v1", headers="X-A: " + "x" * (1 << 20) + "\r\n")[0] in (0, 400)
    assert ask("GET", "/v1", headers="X-A: b\r\n" * 5000)[0] == 200
    assert ask("GET", "/v1/openapi.json", headers="Range: bytes=" + ",".join(["0-"] * 5000) + "\r\n")[0] == 200
    served()


def test_bombs():
    deep = "[" * 100000 + "]" * 100000
    bombs = {
        "nested lists": (deep, "schema-too-deep"), "nested objects": ("{\"a\":" * 100000, "schema-too-deep"),
        "many keys": ("{" + ",".join(f"\"k{i}\":1" for i in range(90000)) + "}", "schema-unknown-key"),
        "a long string": (json.dumps({"name": "x" * 1000000}), "schema-too-long"), "a long key": (json.dumps({"x" * 1000000: 1}), "schema-unknown-key"),
        "a long number": ("{\"cpus\":" + "9" * 100000 + "}", None), "1e400": ("{\"cpus\":1e400}", None), "a fraction": ("{\"cpus\":1.5}", "schema-type"),
        "2^64": ("{\"memory\":18446744073709551616}", None), "a key twice": ("{\"name\":\"a\",\"name\":\"b\"}", "schema-duplicate-key"),
        "no UTF-8": (b"{\"name\":\"\xff\xfe\"}", "schema-json"), "overlong": (b"{\"name\":\"\xc0\xaf\"}", "schema-json"),
        "an escaped NUL": ("{\"name\":\"a\\u0000b\"}", "schema-nul"), "a NUL": (b"{\"name\":\"a\0b\"}", "schema-json"),
        "half a surrogate": ("{\"name\":\"\\ud800\"}", "schema-json"), "a BOM": (b"\xef\xbb\xbf{}", "schema-json"), "a list": ("[]", "schema-type"),
        "nothing but a brace": ("{", "schema-json"), "two values": ("{}{}", "schema-json"), "disks": (json.dumps({"disks": [{}] * 100000}), "schema-too-many"),
        "a control character": (json.dumps({"name": "a\x1b[31m", "kernel": "/k"}), "schema-pattern"),
        "a long name": (json.dumps({"name": "a" * 500000, "kernel": "/k"}), "schema-too-long"),
    }
    assert define("base")[0] == 201
    for name, (body, wanted) in bombs.items():
        for method, path in (("POST", "/v1/machines"), ("POST", "/v1/launch"), ("PATCH", "/v1/machines/base")):
            status, error, _, _ = ask(method, path, body)
            assert status == 400, f"{name}: {method} {path}: {status} {error}"
            assert method == "PATCH" or wanted in (None, error), f"{name}: {method} {path}: {error}, not {wanted}"
    served()


def test_paths():
    for path in ("/v1/../etc/passwd", "/v1/machines/../../../etc/passwd", "/v1/machines/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/machines/..%2f..", "/v1/machines/%252e%252e",
                 "/v1/machines/%00", "/v1/machines/a%00b", "/v1/machines/%ff", "/v1/machines/%1b%5b31m", "/v1/machines/%0d%0aX-Evil:%20x", "/v1/machines/%", "/v1/machines/%zz",
                 "/v1/machines/" + "a" * 60000, "/v1/machines//start", "//v1", "/v1/", "/", "/v1/machines/", "/v1/machines/a/b/c/d", "/v1/operations/%27%20OR%201=1--",
                 "/v1/machines?limit=%00", "/v1/machines?limit=1&limit=2", "/v1/machines?x=1", "/v1/machines?%zz", "/v1/machines?limit=-1", "/v1/machines?limit=1e3",
                 "/v1/machines?project=", "/v1/machines?project=..%2f..", "/v1/machines?" + "&".join(f"a{i}=1" for i in range(5000))):
        status, error, head, _ = ask("GET", path)
        assert status in (400, 404) and error, f"{path[:80]}: {status} {error}"
        assert "x-evil" not in head and head.get("x-request-id"), f"{path[:80]}: {head}"
    assert ask("GET", "/v1/machines/" + "a" * 1000000)[0] in (0, 400)
    for name in ("a" * 1000000, "", "A", "-a", "a-", "a_b", "ä", "a b", "../a", "a/b", "a\n"):
        status, error, _, _ = define(name)
        assert status == 400, f"name {name[:20]!r}: {status} {error}"
    assert ask("GET", "/v1", headers="X-Request-Id: a%0d%0ab\r\n")[2]["x-request-id"] != "a%0d%0ab"
    served()


def test_methods():
    for method in ("FOO", "TRACE", "OPTIONS", "DELETE", "HEAD", "PROPFIND", "get", "G" * 5000):
        status, error, head, _ = ask(method, "/v1/machines")
        assert status == 405 and (error == "method" or method == "HEAD") and "GET" in head["allow"], f"{method[:9]}: {status} {error}"
    ask("CONNECT", "l:80")
    ask("OPTIONS", "*")
    for raw in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET /v1\r\n\r\n", b"GET /v1 HTTP/9.9\r\n\r\n", b"GET /v1 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
                b"GET /v1 HTTP/1.1\nHost: l\n\n", b"GET /v1 HTTP/1.1\r\nHost: a/b\r\n\r\n", b"GET /v1 HTTP/1.1\r\nHost: l\r\nHost: m\r\n\r\n", b"\0" * 1000, b"x" * 100000,
                b"GET /v1 HTTP/1.1\r\nHost: l\r\nX\r\n\r\n", b"GET http://l/v1 HTTP/1.1\r\nHost: l\r\n\r\n", b"GET /v1 HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: x\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /v1 HTTP/1.1\r\nHost: [::1\r\n\r\n", b"GET /v1 HTTP/1.1\r\nHost: l\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
                b"POST /v1/machines HTTP/1.1\r\nHost: l\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
        with connect() as s:
            s.sendall(raw)
            s.shutdown(socket.SHUT_WR)
            got = answers(s)
            assert not got or got[0][0] < 500 or got[0][0] in (501, 505), f"{raw[:60]}: {got[0][:2]}"
    served()


def test_http10():
    with connect() as s:
        s.sendall(b"GET /v1/machines HTTP/1.0\r\n\r\n")
        got = answers(s, 2)
        assert len(got) == 1 and got[0][0] == 200, got
    with connect() as s:  # one request, one connection; it says so
        s.sendall(text("GET", "/v1/machines") * 3)
        got = answers(s, 3)
        assert len(got) == 1 and got[0][0] == 200 and got[0][1]["connection"] == "close", got
    with connect() as s:
        s.sendall(text("GET", "/v1/openapi.json"))
        s.shutdown(socket.SHUT_WR)
        got = answers(s)
        assert got and got[0][0] == 200 and len(got[0][2]) > 100000, "a client that has said all got no answer"


def test_gone():
    for i in range(300):
        with connect() as s:  # in the middle of a long answer, of a request that waits for the broker, of a head, of a body
            s.sendall([text("GET", "/v1/openapi.json") * 30, text("GET", "/v1"), b"GET /v1 HT", text("POST", "/v1/machines", "x" * 1000)[:300],
                       text("POST", "/v1/machines?dry_run=true", json.dumps({"name": "gone", "kernel": "/k"}))][i % 5])
            if i % 2 and i % 5 < 2:
                s.recv(100)
    served()


# ---- one at a time ----------------------------------------------------------------------------------------------------


def test_match():
    assert define("match")[0] == 201
    tag = ask("GET", "/v1/machines/match")[2]["etag"]
    patch = json.dumps({"notes": "x"})
    assert ask("PATCH", "/v1/machines/match", patch, f"If-Match: {tag}\r\n")[0] == 200
    assert ask("PATCH", "/v1/machines/match", patch, f"If-Match: {tag}\r\n")[:2] == (412, "machine-changed")
    for bad in ("x", "\"0\"", "\"-1\"", "\"1", "W/\"1\"", "\"99999999999999999999\"", "\"1\", \"2\"", "\"" + "1" * 10000 + "\""):
        assert ask("PATCH", "/v1/machines/match", patch, f"If-Match: {bad}\r\n")[:2] == (400, "etag"), bad
    assert ask("DELETE", "/v1/machines/match", b"", f"If-Match: {tag}\r\n")[0] == 412
    assert ask("PATCH", "/v1/machines/match", patch, "If-Match: *\r\n")[0] == 200
    assert ask("PATCH", "/v1/machines/match", json.dumps({"mebory": None}))[:2] == (400, "schema-unknown-key")


def at_once(count, function):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def test_race():
    got = [r[0] for r in at_once(50, lambda _: define("race"))]
    assert sorted(got) == [201] + [409] * 49, f"50 clients that define one name got {sorted(got)}"
    print("# 50 clients defined one name: one 201, 49 times 409")


def test_again():
    key = "Idempotency-Key: k1\r\n"
    first, again = define("again", key), define("again", key)
    assert first[0] == again[0] == 201 and first[3] == again[3], f"{first[:2]}, then {again[:2]}"
    assert again[2].get("idempotency-replayed") == "true"
    assert define("again")[:2] == (409, "machine-exists")
    assert define("again", key, memory="1G")[:2] == (409, "idempotency-conflict")
    assert define("again", key, "?dry_run=true")[:2] == (409, "idempotency-conflict")
    got = at_once(10, lambda _: define("again-10", "Idempotency-Key: k2\r\n"))
    assert any(r[0] == 201 for r in got) and all(r[0] == 201 or r[1] == "idempotency-busy" for r in got), [r[:2] for r in got]
    assert len({r[3] for r in got if r[0] == 201}) == 1
    for bad in ("", "a b", "x" * 256, "\x7f"):
        assert define("again-bad", f"Idempotency-Key: {bad}\r\n")[0] == 400 or bad == "", bad


def test_dry():
    assert define("dry", query="?dry_run=true")[0] == 200
    assert ask("GET", "/v1/machines/dry")[0] == 404
    assert define("dry")[0] == 201
    for method, path, body in (("PATCH", "", "{\"notes\":\"x\"}"), ("POST", "/rename", "{\"name\":\"wet\"}"), ("DELETE", "", b"")):
        status, _, _, content = ask(method, f"/v1/machines/dry{path}?dry_run=true", body)
        assert status == 200 and json.loads(content)["name"] in ("dry", "wet"), f"{method} {path}: {status} {content[:200]}"
    assert ask("POST", "/v1/machines/dry/start?dry_run=true", "{}")[1] == "kernel-open"
    assert ask("POST", "/v1/machines/dry/stop?dry_run=true", "{}")[1] == "machine-stopped"
    assert ask("POST", "/v1/machines/dry/reset?dry_run=true")[:2] == (400, "dry-run")
    assert ask("GET", "/v1/machines/dry")[0] == 200 and ask("GET", "/v1/machines/wet")[0] == 404


if __name__ == "__main__":
    globals()["test_" + sys.argv[2]]()
