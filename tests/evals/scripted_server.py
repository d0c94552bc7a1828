"""An OpenAI-compatible server in this process that answers by a script: right, late, cut off, garbled or never."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LINE = re.compile(r"^line (\S+): REGISTER_CONTENT is <(\d+)>$", re.MULTILINE)

Script = Callable[[int, str], str]
"""What to do with request number i (from 0) of a prompt: a name of `Handler.BEHAVIOURS`."""


def right(prompt: str) -> str:
    """The number of the last line that the end of a prompt names."""
    numbers = dict(LINE.findall(prompt))
    named = [key for key in re.findall(r"[a-z]+-[a-z]+", prompt[prompt.rfind(">") :]) if key in numbers]
    return numbers[named[-1]]


class Server(ThreadingHTTPServer):
    """Counts requests by prompt and keeps their bodies."""

    daemon_threads = True

    def __init__(self, script: Script, window: int | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.window = script, window
        self.requests: list[dict[str, object]] = []
        self.seen: dict[str, int] = {}
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are part of the script."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = body.get("messages", [{"content": body.get("prompt", "")}])
        prompt = "".join(str(message["content"]) for message in messages)
        with self.server.lock:
            self.server.requests.append(body)
            count = self.server.seen.get(prompt, 0)
            self.server.seen[prompt] = count + 1
        getattr(self, self.server.script(count, prompt))(prompt)

    def send(self, status: int, text: str, headers: dict[str, str] | None = None, promised: int = 0) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) + promised))
        self.end_headers()
        self.wfile.write(data)
        if promised:
            self.close_connection = True

    def say(self, prompt: str, text: object, reason: str = "stop", **more: object) -> None:
        tokens = len(prompt) // 4
        if self.server.window is not None:
            tokens = min(tokens, self.server.window)
        message = {"role": "assistant", "content": text, **more}
        choice = {"index": 0, "finish_reason": reason}
        choice |= {"text": text} if self.path.endswith("/v1/completions") else {"message": message}
        usage = {"prompt_tokens": tokens, "completion_tokens": 5}
        self.send(200, json.dumps({"choices": [choice], "usage": usage}))

    def answer(self, prompt: str) -> None:
        self.say(prompt, right(prompt))

    def wrong(self, prompt: str) -> None:
        self.say(prompt, "I do not know.")

    def length(self, prompt: str) -> None:
        self.say(prompt, "Let me look at every line, one by one: the first", "length")

    def thinks_apart(self, prompt: str) -> None:
        self.say(prompt, right(prompt), reasoning_content="Let me see. It might be 7.")

    def thinks_within(self, prompt: str) -> None:
        self.say(prompt, f"<think>It might be 7.</think>\n\n{right(prompt)}")

    def thinks_on(self, prompt: str) -> None:
        self.say(prompt, "<think>It might be 7, or", "length")

    def empty(self, prompt: str) -> None:
        self.say(prompt, "")

    def null(self, prompt: str) -> None:
        self.say(prompt, None)

    def busy(self, prompt: str) -> None:
        self.send(429, '{"error": {"message": "rate limit reached"}}', {"Retry-After": "7"})

    def broken(self, prompt: str) -> None:
        self.send(500, "Internal Server Error")

    def late(self, prompt: str) -> None:
        self.server.closing.wait(10)
        self.close_connection = True

    def cut(self, prompt: str) -> None:
        self.send(200, '{"choices": [{"mess', promised=400)

    def hang_up(self, prompt: str) -> None:
        self.close_connection = True

    def garbled(self, prompt: str) -> None:
        self.send(200, "<html>upstream</html>")

    def no_choices(self, prompt: str) -> None:
        self.send(200, '{"choices": []}')

    def too_long(self, prompt: str) -> None:
        self.send(400, '{"error": {"message": "This model\'s maximum context length is 512 tokens."}}')

    def bad(self, prompt: str) -> None:
        self.send(422, '{"detail": "unsupported field"}')

    def no_key(self, prompt: str) -> None:
        self.send(401, '{"error": {"message": "Incorrect API key provided"}}')


@contextmanager
def scripted(script: Script, window: int | None = None) -> Iterator[Server]:
    """A running server; `window` is the number of tokens it says it read at most."""
    server = Server(script, window)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
