"""Generation: no message repeats a secret; replicas, vLLM and Ray agree with one process."""
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spot_nb.generate import Sampling, make_generator
from spot_nb.records import SpotError


@pytest.fixture(scope="module")
def student(): return make_generator("embedded", "transformers", batch_size=8)


class Server(ThreadingHTTPServer):
    """A chat server on 127.0.0.1 whose faults are scripted: `script(body, how often this prompt came)` gives
    a status and a reply."""
    def __init__(self, script):
        server, self.seen, self.lock, self.bodies, self.headers, self.paths = (self, {}, threading.Lock(), [],
                                                                               [], [])
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    server.headers.append(self.headers)
                    server.paths.append(self.path)
                    key = body["messages"][-1]["content"]
                    times = server.seen[key] = server.seen.get(key, 0) + 1
                status, reply = script(body, times)
                blob = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(blob)))
                self.end_headers()
                self.wfile.write(blob)
            def log_message(self, *args): pass
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


def reply(body):
    text = body["messages"][-1]["content"]
    return {"choices": [{"message": {"content": f"{text}! {k}"}, "finish_reason": "stop"}
                        for k in range(body["n"])], "usage": {"completion_tokens": 3}}


KEY = "sk-very-secret-1234"
LOGIN, QUERY = "someone:p%40ss-word", "token=hush-hush&v=1"
SECRETS = (KEY, "p%40ss-word", "p@ss-word", "someone", "hush-hush", "token=",
           base64.b64encode(b"someone:p@ss-word").decode())


def asked(monkeypatch, script, key, url=lambda server: server.url, **kw):
    """The generator, its server and the error (or None) of one request made with `$OPENAI_API_KEY` set to
    `key`."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server, error = Server(script), None
    try:
        with make_generator("m", "openai", base_url=url(server), pause=0.01, **kw) as g:
            g.generate(["a"], Sampling(max_tokens=9))
    except SpotError as e: error = e
    finally: server.shutdown(); server.server_close()
    return g, server, error


def test_the_key_is_stripped_and_sent(monkeypatch):
    _, server, error = asked(monkeypatch, lambda b, t: (200, reply(b)), f" {KEY}\r\n")
    assert error is None and server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [401, 503])
def test_messages_repeat_no_secret(monkeypatch, status):
    # a cut at 300 characters must not leave half a key
    echo = lambda b, t: (status, {"error": f"{'.'*275} you sent {KEY} {' '.join(SECRETS)}"})
    g, server, error = asked(monkeypatch, echo, KEY,
                             lambda s: f"http://{LOGIN}@127.0.0.1:{s.server_port}/v1/?{QUERY}", retries=0,
                             give_up_after=1)
    assert f"HTTP {status}" in str(error) and f"http://127.0.0.1:{server.server_port}/v1 " in str(error)
    assert g.info()["url"] == f"http://127.0.0.1:{server.server_port}/v1" == server.url
    for secret in (*SECRETS, KEY[:8]):
        assert secret not in str(error) + json.dumps(g.info()) + repr(error.__context__)
    assert (server.paths == [f"/v1/chat/completions?{QUERY}"]
            and server.headers[0]["Authorization"] == f"Basic {SECRETS[-1]}")


def test_a_client_s_error_repeats_no_secret(monkeypatch):
    import httpx
    def fail(self, url, **kw): raise httpx.ConnectError(f"no way to {url} with {KEY}")
    monkeypatch.setattr(httpx.Client, "post", fail)
    _, _, error = asked(monkeypatch, None, KEY, lambda s: f"{s.url}?{QUERY}", retries=0, give_up_after=1)
    assert "ConnectError" in str(error) and not any(s in str(error) for s in SECRETS)


@pytest.mark.slow
def test_two_replicas_give_what_one_process_gives(student):
    prompts, s = ["Say a colour.", "Name a town.", "Hello"], Sampling(1.0, 0.9, max_tokens=6, seed=2)
    with make_generator("embedded", "transformers", data_parallel=2) as g:
        assert g.info()["data_parallel"] == 2
        assert g.generate(prompts, s) == student.generate(prompts, s)


@pytest.mark.vllm
def test_vllm_gives_the_greedy_text_of_transformers_and_seeded_samples():
    from spot_nb.arithmetic import make_problems
    prompts, s = [p["prompt"] for p in make_problems(8, seed=11)], Sampling(0, max_tokens=40)
    with make_generator("embedded", "transformers") as g: want = g.generate(prompts, s)
    with make_generator("embedded", "vllm", dtype="float32", max_model_len=512, enforce_eager=True) as g:
        got = g.generate(prompts, s)
        assert [c[0].text for c in got] == [c[0].text for c in want]
        assert [c[0].finish_reason for c in got] == [c[0].finish_reason for c in want]
        assert [c[0].n_tokens for c in got] == [c[0].n_tokens for c in want]
        hot = Sampling(1.0, 0.95, max_tokens=16, n=3, seed=5)
        first = g.generate(prompts[:3], hot)
        assert g.generate(prompts[2::-1], hot)[::-1] == first and len({c.text for c in first[0]}) > 1
        assert g.generate(["word "*600], s)[0][0].finish_reason == "prompt_too_long"
        assert g.info()["engine"] == "vllm"


@pytest.fixture(scope="module")
def ray_cluster():
    "A cluster of one machine that claims a GPU, which vLLM's CPU build does not need."
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.vllm
@pytest.mark.parametrize("stage", ["transformers", "vllm"])
def test_ray_gives_the_greedy_text_of_transformers(ray_cluster, stage):
    from spot_nb.arithmetic import make_problems
    prompts, s = [p["prompt"] for p in make_problems(4, seed=12)], Sampling(0, max_tokens=40)
    with make_generator("embedded", "transformers") as g: want = g.generate(prompts, s)
    options = dict(dtype="float32", max_model_len=512, batch_size=4, stage=stage,
                   **(dict(enforce_eager=True) if stage == "vllm" else {}))
    with make_generator("embedded", "ray", **options) as g:
        assert [c[0].text for c in g.generate(prompts, s)] == [c[0].text for c in want]


@pytest.mark.vllm
def test_a_cluster_without_a_gpu_is_named(ray_cluster, monkeypatch):
    monkeypatch.setattr(ray_cluster, "cluster_resources", lambda: {"CPU": 2})
    with pytest.raises(SpotError, match="no GPU"): make_generator("embedded", "ray")
