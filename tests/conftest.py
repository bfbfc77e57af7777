"""Shared fixtures: the optional folder of public benchmark questions, and a quiet progress bar."""
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

os.environ.setdefault("SPOT_PROGRESS", "0")
# torch asks oneDNN whether the processor can pack bf16: both are told the same.
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
SHARED = Path(os.environ.get("SPOT_SHARED") or Path(__file__).resolve().parents[2]/"shared")


# The slow files go first, so that two processes end together.
ORDER = ["test_train", "test_sharded", "test_task_loop", "test_pipeline", "test_plan", "test_overlap",
         "test_evaluate", "test_rectify"]


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda t: ORDER.index(t.path.stem) if t.path.stem in ORDER else len(ORDER))


class ChatServer(ThreadingHTTPServer):
    """A chat-completions server on this machine. `reply(prompt)` gives the text, `asked` lists the prompts so
    far, `usage` are the tokens that each call is said to have cost."""
    def __init__(self, reply, usage=(5, 7)):
        server, self.asked = self, []
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_GET(self): self.say({"object": "list", "data": [{"id": "m", "object": "model"}]})
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = body["messages"][-1]["content"]
                server.asked.append(prompt)
                message = {"role": "assistant", "content": reply(prompt)}
                self.say({"id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                          "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1],
                                    "total_tokens": sum(usage)},
                          "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
            def say(self, what):
                blob = json.dumps(what).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(blob)))
                self.end_headers()
                self.wfile.write(blob)
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()


def small_tokenizer(texts):
    """The embedded student's tokenizer with its template and special tokens, and a vocabulary of 400 learned
    from `texts`: the LM head of a tiny model is then tiny as well."""
    from spot_nb.models import load_tokenizer
    tok = load_tokenizer("embedded")
    turns = [tok.apply_chat_template([{"role": r, "content": "x"} for r in ("user", "assistant")],
                                     tokenize=False)]
    return tok.train_new_from_iterator([*turns * 50, *texts], vocab_size=400)


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    "Folder with public benchmark questions; tests that need it are skipped where it is absent."
    path = SHARED/"benchmarks"
    if not path.is_dir(): pytest.skip("no benchmark questions beside the project (set SPOT_SHARED)")
    return path


@pytest.fixture(scope="session")
def published() -> dict:
    "Every published figure of the paper, from the optional shared folder."
    import json
    path = SHARED/"paper"/"results.json"
    if not path.is_file(): pytest.skip("no published figures beside the project (set SPOT_SHARED)")
    return json.loads(path.read_text(encoding="utf-8"))
