"""Generation: the transformers engine is exact and seeded; a server's faults are survived; replicas and Ray
agree with one process."""
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spot_nb.generate import Completion, Sampling, make_generator, pick_tokens, response_text
from spot_nb.records import SpotError


@pytest.mark.parametrize("bad",
                         [dict(temperature=-1), dict(temperature=float("nan")), dict(top_p=0),
                          dict(top_p=1.1), dict(top_k=-1), dict(max_tokens=0), dict(n=0), dict(seed=-2)])
def test_sampling_names_a_bad_setting(bad):
    with pytest.raises(SpotError, match=next(iter(bad))): Sampling(**bad)


def test_picked_tokens_stay_in_the_nucleus_and_do_not_depend_on_the_short_cut():
    import torch
    torch.manual_seed(0)
    logits, u = torch.randn(300, 400), torch.rand(300)
    for s in (Sampling(0.7, 0.8), Sampling(2.0, 1.0), Sampling(1.0, 0.5, 7)):
        picked = pick_tokens(logits, u, s)
        assert torch.equal(picked, pick_tokens(logits, u, s, head=400))
        if s.top_k: assert ((logits > logits.gather(1, picked[:, None])).sum(1) < s.top_k).all()
    assert torch.equal(pick_tokens(logits, u, Sampling(0)), logits.argmax(-1))


def test_engine_options_that_do_not_fit_are_named():
    for kw in (dict(engine="warp"), dict(engine="transformers", tensor_parallel=2),
               dict(engine="vllm", num_gpus=3, tensor_parallel=2),
               dict(engine="transformers", base_url="http://x")):
        with pytest.raises(SpotError): make_generator("embedded", **kw)
    with pytest.raises(SpotError, match="address"): make_generator("m", "openai")


@pytest.fixture(scope="module")
def student(): return make_generator("embedded", "transformers", batch_size=8)


def test_a_sample_depends_on_the_seed_and_its_prompt_only(student):
    prompts, s = (["Say a colour.", "Name a town in France, please.", "Say a colour."],
                  Sampling(1.0, 0.95, max_tokens=8, n=2, seed=3))
    one = student.generate(prompts, s)
    student.batch_size = 2
    assert student.generate(prompts[::-1], s)[1] == one[1]
    assert len({c.text for i in (0, 2) for c in one[i]}) > 1  # a repeated prompt is sampled anew
    assert student.generate(prompts[1:2], Sampling(1.0, 0.95, max_tokens=8, n=2, seed=4)) != [one[1]]
    student.batch_size = 8


def test_limits_are_reported(student):
    out = student.generate(["Count to one hundred."], Sampling(0, max_tokens=3))[0][0]
    assert out.finish_reason == "length" and out.n_tokens == 3
    small = make_generator(student.model, "transformers", tokenizer=student.tokenizer, max_model_len=50)
    assert [c[0].finish_reason
            for c in small.generate(["a b "*60], Sampling(0, max_tokens=3))] == ["prompt_too_long"]
    with pytest.raises(SpotError, match="list of"): student.generate([[]], Sampling(0, max_tokens=1))


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


def reply(body, n=None):
    text = body["messages"][-1]["content"]
    return {"choices": [{"message": {"content": f"{text}! {k}"}, "finish_reason": "stop"}
                        for k in range(body["n"] if n is None else n)], "usage": {"completion_tokens": 3}}


def served(script, prompts, sampling=Sampling(max_tokens=9), **kw):
    server = Server(script)
    try:
        with make_generator("m", "openai", base_url=server.url, pause=0.01, **kw) as g:
            return g.generate(prompts, sampling), server
    finally: server.shutdown(); server.server_close()


def test_a_server_answers_and_gets_every_setting():
    out, server = served(lambda b, t: (200, reply(b)), ["a", "b"], Sampling(0.5, 0.9, 7, 9, 2, 1, False))
    assert [[c.text for c in cs] for cs in out] == [["a! 0", "a! 1"], ["b! 0", "b! 1"]]
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"], body["n"]) == (0.5, 0.9, 7,
                                                                                                  9, 2)
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and isinstance(body["seed"], int)


def test_a_server_s_passing_faults_are_retried():
    out, server = served(lambda b,
                         t: (200, reply(b)) if t > 2 else ((429, {}) if t == 1 else (200, {"nonsense": 1})),
                         ["a", "b", "c"])
    assert [c[0].text for c in out] == ["a! 0", "b! 0", "c! 0"] and len(server.bodies) == 9


def test_a_server_that_ignores_n_is_asked_again():
    out, _ = served(lambda b, t: (200, reply(b, 1)), ["a"], Sampling(n=3, max_tokens=5))
    assert len(out[0]) == 3


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thinking_that_a_server_sets_apart_is_kept_apart(name):
    def script(body, times):
        said = reply(body)
        for c in said["choices"]: c["message"][name] = "3 + 4"
        return 200, said
    out, _ = served(script, ["a"])
    assert (out[0][0].text, out[0][0].reasoning) == ("a! 0", "3 + 4")


def test_special_tokens_inside_a_response_are_sampled_text(student):
    tok = student.tokenizer
    ids = tok("<|im_start|>think\n7<|im_end|>", add_special_tokens=False)["input_ids"]
    text = response_text(tok, ids, "stop")
    assert text == "<|im_start|>think\n7" and response_text(tok, ids, "length") == text + "<|im_end|>"
    assert response_text(tok, [], "length") == ""
    assert response_text(tok, ids[:3], "stop") == tok.decode(ids[:3])


def test_one_hopeless_prompt_is_an_error_and_the_rest_go_on():
    out, _ = served(lambda b, t: (500, {}) if b["messages"][-1]["content"] == "b" else (200, reply(b)),
                    ["a", "b", "c"], retries=2)
    assert [c[0].finish_reason for c in out] == ["stop", "error", "stop"]


def test_a_prompt_that_is_too_long_for_the_server_is_named():
    out, _ = served(lambda b, t: (400, {"error": "This model's maximum context length is 10 tokens"}), ["a"])
    assert out[0] == [Completion("", "prompt_too_long")]


@pytest.mark.parametrize("script", [lambda b, t: (404, {"error": "no such model"}), lambda b, t: (503, {})])
def test_a_dead_server_stops_the_run(script):
    with pytest.raises(SpotError, match="--resume"):
        served(script, [f"p{i}" for i in range(40)], retries=1, concurrency=4)


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


@pytest.mark.parametrize("key",
                         ["sk-sécret-1234", "sk-secret\n-1234", "sk-secret\x7f1234", "\ufeffsk-secret-1234"])
def test_a_key_that_no_request_can_carry_is_named_without_it(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SpotError, match="OPENAI_API_KEY") as e:
        make_generator("m", "openai", base_url="http://127.0.0.1:1/v1")
    assert "1234" not in str(e.value) and "sk-" not in str(e.value)


@pytest.mark.parametrize("url",
                         ["http://user:hush/hush@host/v1", "http://user:hush@/v1",
                          "http://user:hush@host:99999/v1", "http://user:hush@[::1/v1",
                          "http://user:hush@h\x00st/v1", "user:hush@host"])
def test_an_unusable_address_is_named_without_its_password(url):
    with pytest.raises(SpotError, match="address") as e: make_generator("m", "openai", base_url=url)
    assert "hush" not in str(e.value) and e.value.__cause__ is None


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
