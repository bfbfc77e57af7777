"""Oracles and rectification against a loopback server, through the real client libraries, with faults and
kills."""
import asyncio
import collections
import os
import random
import signal
import subprocess
import sys
import time
import traceback

import pytest
from hypothesis import given, settings, strategies as st

from spot_nb import rectify as rect
from spot_nb.bench.oracle import corrected, problem, serving
from spot_nb.oracle import (END, START, BadCall, GeminiBatchOracle, GeminiOracle, OpenAIOracle, Oracle, Reply,
                            TryAgain, build_messages, export_sheet, parse_reply, read_sheet)
from spot_nb.records import SpotError, iter_jsonl, read_jsonl, write_jsonl
from spot_nb.rectify import rectify

KEY = "AIzaSy-not-a-real-key-0123456789"
FAST = dict(backoff=0.01, max_wait=0.1, timeout=0.8)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"): monkeypatch.setenv(name, KEY)
    for name in ("GOOGLE_API_KEY", "OPENAI_BASE_URL"): monkeypatch.delenv(name, raising=False)


def oracle_for(wire, urls, **kw):
    return GeminiOracle(base_url=urls[0], **kw) if wire == "gemini" else OpenAIOracle("m", base_url=urls[1],
                                                                                      **kw)


def ids(path): return [r["id"] for r in iter_jsonl(path)]


class Scripted(Oracle):
    "Replies from a function of (record, try number); a number of seconds to sleep first."
    kind, model, paid = "openai", "gemini-2.5-pro", True
    def __init__(self, reply, sleep=0.0):
        self.reply, self.sleep, self.asked = reply, sleep, collections.Counter()
    async def ask(self, job):
        self.asked[job.record["id"]] += 1
        await asyncio.sleep(self.sleep)
        out = self.reply(job)
        if isinstance(out, Exception): raise out
        return out if isinstance(out, Reply) else Reply(out, usage={"input": 600, "output": 400})


# ---------------------------------------------------------------- faults over the wire

@pytest.mark.parametrize("wire,n", [("openai", 2000), ("gemini", 2000)])
def test_faults_leave_exactly_one_record_each(tmp_path, wire, n):
    faults = {"429": 0.03, "429_after": 0.02, "503": 0.05, "hang": 0.02, "drop": 0.02}
    with serving(latency=0.005, faults=faults, log=str(tmp_path/"log"), key=KEY) as urls:
        s = rectify([problem(k) for k in range(n)], oracle_for(wire, urls), tmp_path/"out.jsonl", workers=100,
                    prices="1,1", **FAST)
    assert ids(tmp_path/"out.jsonl") == list(range(n)) and s["left"] == 0
    assert s["verdicts"] == {"correct": n}
    log = [line.split() for line in open(tmp_path/"log")]
    kinds = collections.Counter(kind for _, kind in log)
    assert all(kinds[f] > 0 for f in faults)
    lost = sum(r["usage"].get("lost_calls", 0) for r in iter_jsonl(tmp_path/"out.jsonl"))
    # a reply is asked for again only where none arrived
    assert 0 <= kinds["ok"] - n <= lost - kinds["hang"] - kinds["drop"]
    assert s["retries"] >= sum(kinds[f] for f in faults)


@pytest.mark.parametrize("wire", ["openai", "gemini"])
def test_every_kind_of_reply_is_kept_with_its_verdict(tmp_path, wire):
    faults = {k: 0.1 for k in ("500", "truncate", "empty", "blocked", "wrong", "no_end", "length")}
    with serving(faults=faults, log=str(tmp_path/"log")) as urls:
        s = rectify([problem(k) for k in range(150)], oracle_for(wire, urls), tmp_path/"out.jsonl",
                    workers=20, prices="1,1", **FAST)
    rows = read_jsonl(tmp_path/"out.jsonl")
    last = {int(k): kind for k, kind in (line.split() for line in open(tmp_path/"log"))}
    want = {"ok": "correct", "no_end": "correct", "wrong": "wrong", "empty": "empty", "blocked": "blocked",
            "length": "truncated"}
    assert {r["id"]: r["verdict"] for r in rows} == {k: want[kind] for k, kind in last.items()}
    assert set(s["verdicts"]) == set(want.values())
    for r in rows:
        assert ((r["chosen"] is not None) == (r["verdict"] in ("correct", "wrong"))
                and r["verified"] == (r["verdict"] == "correct"))
        if r["verdict"] == "correct":
            assert (r["thoughts"] == "The second line is off by one."
                    and r["rejected"] == problem(r["id"])["response"])
            assert (r["usage"]["thoughts_tokens"] == 320 and r["usage"]["output_tokens"] == 400
                    and r["usage"]["cached_tokens"] == 100)
        if r["verdict"] == "truncated": assert START in r["reply"]


@pytest.mark.parametrize("wire", ["openai", "gemini"])
def test_wrong_key_and_wrong_model_stop_at_once(tmp_path, wire):
    with serving(log=str(tmp_path/"log"), key="another-key") as urls:
        start = time.monotonic()
        with pytest.raises(SpotError, match="refuses the key") as e:
            rectify([problem(k) for k in range(500)], oracle_for(wire, urls), tmp_path/"a.jsonl", workers=20)
        assert time.monotonic() - start < 10 and KEY not in str(e.value) and ("GEMINI" if wire == "gemini"
                                                                              else "OPENAI") in str(e.value)
    with serving(log=str(tmp_path/"log"), key=KEY, model="other") as urls:
        with pytest.raises(SpotError, match="knows no model") as e:
            rectify([problem(k) for k in range(500)], oracle_for(wire, urls), tmp_path/"a.jsonl", workers=20)
    assert read_jsonl(tmp_path/"a.jsonl") == []


def test_the_key_appears_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("errors.jsonl", [problem(k) for k in range(15)])
    script = ("import logging, sys; logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)\n"
              "for name in ('httpcore', 'httpx', 'httpx2', 'asyncio', 'openai'): "
              "logging.getLogger(name).setLevel(logging.INFO)\n"
              "from spot_nb.cli import main; sys.exit(main(sys.argv[1:]))")
    seen = []
    for key, code in ((KEY, 0), ("another", 2)):
        with serving(faults={"429_after": 0.1, "drop": 0.1}, key=key) as urls:
            for wire, url in (("gemini", urls[0]), ("openai", urls[1])):
                cmd = ["rectify", "--input", "errors.jsonl", "--output", f"{wire}{code}.jsonl", "--oracle",
                       wire, "--model", "m", "--base_url", url, "--workers", "8", "--tries", "3"]
                p = subprocess.run([sys.executable, "-c", script, *cmd], capture_output=True, text=True,
                                   env={**os.environ, "SPOT_DEBUG": ""})
                assert p.returncode == code, p.stderr[-2000:]
                seen += [p.stdout, p.stderr]
                oracle = oracle_for(wire, urls)
                seen += [repr(oracle), str(oracle.settings())]
                if code:
                    try: rectify("errors.jsonl", oracle, "t.jsonl", workers=2)
                    except SpotError: seen.append(traceback.format_exc())
                    assert "refuses the key" in seen[-1]
    seen += [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(seen) > 15 and not any(KEY in s for s in seen)


# ---------------------------------------------------------------- kill -9

CHILD = """
import sys, os
from spot_nb.bench.oracle import problem
from spot_nb.oracle import OpenAIOracle
from spot_nb.rectify import rectify
print('up', flush=True)
s = rectify([problem(k) for k in range(int(sys.argv[2]))], OpenAIOracle('m', base_url=sys.argv[1]), \
sys.argv[3], workers=20, attempts=2, prices='1,1', backoff=0.01, max_wait=0.1)
"""


def test_killed_ten_times_nothing_is_lost_or_paid_twice(tmp_path):
    n, workers, kills = 400, 20, 10
    log, out, rng = tmp_path/"log", tmp_path/"out.jsonl", random.Random(0)
    faults = {"wrong": 0.1, "503": 0.05}
    with serving(latency=0.05, faults=faults, seed=3, log=str(log)) as urls:
        start = lambda: subprocess.Popen([sys.executable, "-c", CHILD, urls[1], str(n), str(out)],
                                         stdout=subprocess.PIPE, env={**os.environ, "SPOT_PROGRESS": "0"})
        repeated = killed = 0
        while True:
            before = set(ids(out)) if out.exists() else set()
            seen = len(log.read_text().splitlines()) if log.exists() else 0
            p = start()
            p.stdout.readline()
            if killed < kills:
                t0 = time.monotonic()  # kill at a random number of calls into this run
                calls = rng.randint(1, n//14)
                while len(log.read_text().splitlines() if log.exists()
                          else ()) < seen + calls and p.poll() is None and time.monotonic() - t0 < 20:
                    time.sleep(0.005)
                assert p.poll() is None, "the run ended before it could be killed"
                p.send_signal(signal.SIGKILL); killed += 1
            p.wait(60); p.stdout.close()
            asked = [int(line.split()[0]) for line in log.read_text().splitlines()[seen:]]
            repeated += sum(k in before for k in asked)
            raw = out.read_bytes() if out.exists() else b""
            if raw and not raw.endswith(b"\n"): out.write_bytes(raw[:raw.rfind(b"\n") + 1])
            if p.returncode == 0: break
    assert killed == kills and repeated == 0
    rows = read_jsonl(out)
    assert [r["id"] for r in rows] == list(range(n))
    served = collections.Counter(int(k)
                                 for k, kind in (line.split() for line in log.read_text().splitlines())
                                 if kind in ("ok", "wrong"))
    paid = {r["id"]: r["usage"]["calls"] for r in rows}
    again = sum(served[k] - paid[k] for k in paid)
    assert 0 <= again <= workers*kills, again
    whole = rectify_whole(n, faults, tmp_path/"whole.jsonl")
    assert [(r["id"], r["prompt"], r["rejected"], r["answer"])
            for r in rows] == [(r["id"], r["prompt"], r["rejected"], r["answer"]) for r in whole]
    same = [a for a, b in zip(rows, whole) if a["verdict"] == b["verdict"] == "correct"]
    assert all(a["chosen"] == whole[a["id"]]["chosen"] for a in same) and len(same) > 0.95*n


def rectify_whole(n, faults, out):
    with serving(faults=faults, seed=3) as urls:
        rectify([problem(k) for k in range(n)], OpenAIOracle("m", base_url=urls[1]), out, workers=20,
                attempts=2, prices="1,1", **FAST)
    return read_jsonl(out)


def test_ctrl_c_finishes_what_is_in_flight(tmp_path):
    with serving(latency=0.3, log=str(tmp_path/"log")) as urls:
        p = subprocess.Popen([sys.executable, "-c", CHILD, urls[1], "400", str(tmp_path/"o.jsonl")],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        p.stdout.readline()
        while not (tmp_path/"log").exists() or len((tmp_path/"log").read_text().splitlines()) < 30:
            time.sleep(0.02)
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=30)[1]
    asked = len((tmp_path/"log").read_text().splitlines())
    assert "calls in flight" in err and "KeyboardInterrupt" in err
    assert len(ids(tmp_path/"o.jsonl")) == asked < 400


# ---------------------------------------------------------------- money

@pytest.mark.parametrize("workers", [1, 10, 50])
def test_budget_holds_over_resumes(tmp_path, workers):
    price, good = (600*1.25 + 400*10)/1e6, lambda job: corrected(job.record["id"])
    records, cap = [problem(k) for k in range(300)], 0.5
    for _ in range(2):
        s = rectify(records, Scripted(good, 0.003), tmp_path/"o.jsonl", workers=workers, max_cost_usd=cap)
        assert s["stopped"] == "budget" and s["cost_usd"] <= cap + workers*price
    assert s["cost_usd"] > cap - 2*price
    s = rectify(records, Scripted(good), tmp_path/"o.jsonl", workers=workers, max_cost_usd=100)
    assert s["left"] == 0 and s["cost_usd"] == pytest.approx(300*price)


def test_target_is_not_overshot_by_a_wave(tmp_path):
    reply = lambda job: corrected(job.record["id"], wrong=job.record["id"] % 3 == 0)
    for target in (100, 150):
        s = rectify([problem(k) for k in range(300)], Scripted(reply, 0.005), tmp_path/"o.jsonl", workers=50,
                    target_correct=target)
        assert s["stopped"] == "target" and target <= s["verdicts"]["correct"] <= target + 5


# ---------------------------------------------------------------- tries, attempts, faults of every kind

def test_a_failure_is_shown_and_kept(tmp_path):
    def reply(job): return corrected(job.record["id"], wrong=len(job.messages) < 5)
    s = rectify([problem(3)], Scripted(reply), tmp_path/"o.jsonl", attempts=4)
    r, = read_jsonl(tmp_path/"o.jsonl")
    assert (r["verdict"] == "correct" and len(r["attempts"]) == 2 and s["calls"] == 3
            and r["usage"]["calls"] == 3)
    assert r["usage"]["output_tokens"] == 1200
    later = build_messages(problem(3), "without_answer", [("x", "its final answer, 13, is not right")])
    assert "13" in later[-1]["content"] and problem(3)["answer"] not in later[-1]["content"]


def test_half_tried_errors_go_on_where_they_stood(tmp_path):
    records, out = [problem(k) for k in range(5)], tmp_path/"o.jsonl"
    def first(job):
        return corrected(job.record["id"],
                         wrong=True) if len(job.messages) == 1 else SpotError("the power went out")
    with pytest.raises(SpotError, match="power"):
        rectify(records, Scripted(first, 0.02), out, workers=5, attempts=2)
    assert len(read_jsonl(tmp_path/"o.calls.jsonl")) == 5 and read_jsonl(out) == []
    second = Scripted(lambda job: corrected(job.record["id"]))
    s = rectify(records, second, out, workers=5, attempts=2)
    assert (set(second.asked.values()) == {1} and s["verdicts"] == {"correct": 5}
            and all(len(r["attempts"]) == 1 for r in iter_jsonl(out)))
    assert s["cost_usd"] == pytest.approx(10*(600*1.25 + 400*10)/1e6)


def test_failed_ones_can_be_asked_again_and_nothing_is_deleted(tmp_path):
    out, records = tmp_path/"o.jsonl", [problem(k) for k in range(20)]
    flaky = (lambda job: BadCall("400 too long") if job.record["id"] == 4
             else corrected(job.record["id"], wrong=job.record["id"] == 5))
    s = rectify(records, Scripted(flaky), out, workers=1)
    assert s["verdicts"] == {"correct": 18, "wrong": 1, "failed": 1}
    again = Scripted(lambda job: corrected(job.record["id"]))
    assert rectify(records, again, out)["calls"] == 0
    s = rectify(records, again, out, retry=("failed", "wrong"))
    assert s["verdicts"] == {"correct": 20} and set(again.asked) == {4, 5}
    assert {r["verdict"] for r in iter_jsonl(tmp_path/"o.superseded.jsonl")} == {"failed", "wrong"}
    # 18 right and 1 wrong, then 2 more; the refused call was free
    assert s["cost_usd"] == pytest.approx(21*(600*1.25 + 400*10)/1e6)
    assert ids(out) == list(range(20))


def test_heavy_throttling_lowers_concurrency_and_honours_retry_after(tmp_path):
    busy = {"now": 0, "most_ok": 8, "turned": 0}
    class Narrow(Oracle):
        kind, model, paid = "openai", "gemini-2.5-pro", True
        async def ask(self, job):
            busy["now"] += 1
            try:
                if busy["now"] > busy["most_ok"]:
                    busy["turned"] += 1
                    raise TryAgain("429", after=0.1, throttled=True)
                await asyncio.sleep(0.01)
                return Reply(corrected(job.record["id"]), usage={"input": 1, "output": 1})
            finally: busy["now"] -= 1
    s = rectify([problem(k) for k in range(150)], Narrow(), tmp_path/"o.jsonl", workers=60, tries=200,
                backoff=0.01)
    assert s["verdicts"] == {"correct": 150} and s["lowest_concurrency"] < 60 and busy["turned"] < 1000


# ---------------------------------------------------------------- programs, people, batches

def test_inside_a_running_loop(tmp_path):
    async def main():
        return rectify([problem(k) for k in range(5)], lambda r: f"\\boxed{{{r['answer']}}}",
                       tmp_path/"o.jsonl")
    assert asyncio.run(main())["verdicts"] == {"correct": 5}


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r"), max_size=40),
                max_size=4), st.sampled_from(["s.txt", "s.csv"]))
@settings(max_examples=60, deadline=None)
def test_sheets_round_trip(tmp_path_factory, texts, name):
    path = tmp_path_factory.mktemp("s")/name
    records = [{"id": k, "prompt": "q", "response": t, "answer": "1"} for k, t in enumerate(texts)]
    if texts: assert read_sheet(export_sheet(records, path)) == {r["id"]: r["response"] for r in records}


def test_batch_api_submits_once_and_resumes(tmp_path):
    log, out, records = tmp_path/"log", tmp_path/"o.jsonl", [problem(k) for k in range(25)]
    batch = lambda url: GeminiBatchOracle(base_url=url, poll=0.1, max_requests=10)
    with serving(log=str(log), batch_seconds=0.5, faults={"wrong": 0.2}) as urls:
        submitting = batch(urls[0])
        # dies after submission, before anything is collected
        submitting._collect = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt): rectify(records, submitting, out)
        state = tmp_path/"o.batches.jsonl"
        lines = state.read_text().splitlines()
        assert len(lines) == 6  # intent and name of three batches
        # killed while the last name was being written
        state.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
        s = rectify(records, batch(urls[0]), out)
        assert s["left"] == 0 and ids(out) == list(range(25)) and set(s["verdicts"]) == {"correct", "wrong"}
        assert log.read_text().splitlines().count("10 batch") == 2 and log.read_text().splitlines().count(
            "5 batch") == 1
        each = 0.5*(500*1.25 + 100*0.125 + 400*10)/1e6
        assert s["cost_usd"] == pytest.approx(25*each, abs=1e-6)
        n_wrong = s["verdicts"]["wrong"]
        s = rectify(records, batch(urls[0]), out, retry=["wrong"])
        assert s["calls"] == n_wrong and ids(out) == list(range(25))


def test_local_generator_corrects_in_rounds(tmp_path):
    from spot_nb.generate import Completion, Generator
    from spot_nb.oracle import GeneratorOracle
    class Model(Generator):
        def stream(self, prompts, sampling=None):
            for i in reversed(range(len(prompts))):
                k = int(prompts[i][0]["content"].split("Problem ")[-1].split(":")[0])
                yield i, [Completion(corrected(k, wrong=k % 2 and len(prompts[i]) == 1), "stop", 40)]
        def info(self): return {"model": "m"}
    s = rectify([problem(k) for k in range(10)], GeneratorOracle(Model()), tmp_path/"o.jsonl", attempts=2)
    assert s["verdicts"] == {"correct":
                             10} and s["calls"] == 15 and ids(tmp_path/"o.jsonl") == list(range(10))


# ---------------------------------------------------------------- input, parsing, command

@pytest.mark.parametrize("text,how",
                         [(f"{START}\nx\n{END}", "markers"), (f"{START}\nx", "no end marker"),
                          (f"```\n{START}\nx\n```", "no end marker"), (f"# {START}\nx\n# {END}", "markers"),
                          (f"<think>{START} y {END}</think>{START}\nx\n{END}", "markers"),
                          ("<think>never ends", "no markers"), ("I cannot help with that.", "refused"),
                          ("x", "no markers"), ("  \n", "empty"), (f"{START}\n\n{END}", "empty")])
def test_parse(text, how):
    p = parse_reply(text)
    assert p.how == how and p.text == ("x" if how in ("markers", "no end marker") else None)


@given(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_parse_never_raises_and_returns_what_stood_between(text):
    parse_reply(text)
    inner = "a" + text.replace("[", "(").replace("<", "(").replace("`", "'").replace("~", "-") + "b"
    assert parse_reply(f"{START}\n{inner}\n{END}").text == inner


def test_bad_input(tmp_path):
    run = lambda errors, **kw: rectify(errors, lambda r: "x", tmp_path/"o.jsonl", **kw)
    for errors, match in (([{"id": 1, "prompt": "q"}], "record 1"),
                          ([problem(1), problem(1)], "occurs twice"),
                          (tmp_path/"none.jsonl", "does not exist")):
        with pytest.raises(SpotError, match=match): run(errors)
    for kw in (dict(workers=0), dict(attempts=0), dict(mode="nice"), dict(max_cost_usd=-1),
               dict(retry=["bad"]), dict(timeout=0), dict(prices={"m": 3})):
        with pytest.raises(SpotError): run([problem(1)], **kw)
    with pytest.raises(SpotError, match="no `answer`"):
        rectify([{**problem(1), "answer": None}], Scripted(lambda j: "x"), tmp_path/"o.jsonl",
                mode="with_answer")
    write_jsonl(tmp_path/"other.jsonl", [{"id": 1, "x": 2}])
    with pytest.raises(SpotError, match="not written by"):
        rectify([problem(1)], lambda r: "x", tmp_path/"other.jsonl")
    assert read_jsonl(tmp_path/"other.jsonl") == [{"id": 1, "x": 2}]


def test_missing_key_names_the_variable(monkeypatch):
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"): monkeypatch.delenv(name)
    with pytest.raises(SpotError, match="GEMINI_API_KEY or GOOGLE_API_KEY"): GeminiOracle()
    with pytest.raises(SpotError, match="OPENAI_API_KEY"): OpenAIOracle("gpt-5")
    assert OpenAIOracle("m", base_url="http://127.0.0.1:1/v1").paid is False


def test_dry_run_needs_no_key_and_spends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GEMINI_API_KEY")
    write_jsonl(tmp_path/"e.jsonl", [problem(k) for k in range(100)])
    argv = ["--input", str(tmp_path/"e.jsonl"), "--output", str(tmp_path/"o.jsonl"), "--dry-run"]
    rect.cli(argv); full = capsys.readouterr().out
    rect.cli([*argv, "--oracle", "gemini_batch"]); half = capsys.readouterr().out
    dollars = lambda text: float(text.split("$")[1].split()[0])
    assert ("100 errors" in full and dollars(full) == pytest.approx(2*dollars(half), abs=0.02)
            and not (tmp_path/"o.jsonl").exists())


def test_import_is_light():
    code = ("import time, sys; t = time.perf_counter(); import spot_nb.rectify; d = time.perf_counter() - "
            "t; print(d, [m for m in ('torch', 'openai', 'google.genai', 'numpy') if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split(" ", 1)
    assert out[1].strip() == "[]" and float(out[0]) < 0.5


# ---------------------------------------------------------------- what belongs to another run

def test_an_output_of_other_responses_or_another_mode_is_refused(tmp_path):
    out = tmp_path/"out.jsonl"
    rectify([problem(1)], Scripted(lambda job: corrected(1)), out)
    other = {**problem(1), "response": "We guess.\nThe answer is \\boxed{9}."}
    with pytest.raises(SpotError, match="another response"):
        rectify([other], Scripted(lambda job: corrected(1)), out)
    with pytest.raises(SpotError, match="--mode without_answer"):
        rectify([problem(1)], Scripted(lambda job: corrected(1)), out, mode="with_answer")
    assert ids(out) == [1]
    again = Scripted(lambda job: corrected(2))
    assert rectify([problem(1), problem(2)], again, out)["recorded"] == 2 and again.asked == {2: 1}
    assert rectify([problem(1), problem(2)], again, out, mode="with_answer", retry=["wrong"])["recorded"] == 2


SLIP = '''
def slip(record):
    "The right response with a last number that is one too large."
    head, _, answer = record["response"].rpartition("{")
    return head + "{" + str(int(answer.rstrip("}.")) + 1) + "}."

def same(record): return record["response"]
'''


def test_mistakes_are_injected_into_right_responses(tmp_path):
    from spot_nb.rectify import cli
    from spot_nb.pairs import load_pairs
    (tmp_path/"slip.py").write_text(SLIP)
    rows = [{"id": k, "prompt": f"{k} + 1?", "response": f"It is \\boxed{{{k + 1}}}.", "answer": str(k + 1),
             "correct": True} for k in range(4)]
    write_jsonl(tmp_path/"right.jsonl", rows)
    run = lambda f, data, out: cli(["--data", str(tmp_path/data), "--oracle", "program", "--mode", "inject",
                                    "--program", f"{tmp_path}/slip.py:{f}", "--output", str(tmp_path/out)])
    assert run("slip", "right.jsonl", "raw.jsonl") == 0
    made = read_jsonl(tmp_path/"raw.jsonl")
    assert [(r["chosen"], r["rejected"]) for r in made] == [
        (f"It is \\boxed{{{k + 1}}}.", f"It is \\boxed{{{k + 2}}}.") for k in range(4)]
    assert all(r["verified"] and r["oracle"]["mode"] == "inject" for r in made)
    assert run("slip", "right.jsonl", "raw.jsonl") == 0 and read_jsonl(tmp_path/"raw.jsonl") == made
    assert [p["rejected"] for p in load_pairs(tmp_path/"raw.jsonl")] == [r["rejected"] for r in made]
    assert run("same", "right.jsonl", "same.jsonl") == 1       # nothing was put in
    assert {r["reason"] for r in read_jsonl(tmp_path/"same.jsonl")} == {"still right"}
    write_jsonl(tmp_path/"wrong.jsonl", [{**r, "correct": False} for r in rows])
    with pytest.raises(SpotError, match="record 0: the response is wrong.*correct_results.jsonl"):
        run("slip", "wrong.jsonl", "other.jsonl")
    with pytest.raises(SpotError, match="record 0: the response is right.*errors.jsonl"):
        cli(["--data", str(tmp_path/"right.jsonl"), "--oracle", "program", "--output",
             str(tmp_path/"x.jsonl"), "--program", f"{tmp_path}/slip.py:slip"])
    assert not (tmp_path/"other.jsonl").exists() and not (tmp_path/"x.jsonl").exists()
