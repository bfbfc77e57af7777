"""The verifier: every reference answer is right against itself, deliberately wrong answers are wrong, and no
text hangs or kills it."""
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from spot_nb.verify import (Verdict, boxed, clean, close_workers, extract_candidates, is_correct, judge,
                            judge_many, number)
from spot_nb.compare import _key, elements as _elements
from verify_cases import RIGHT, WRONG

SETS = {"math500": 500, "aime24": 30, "aime25": 30, "amc23": 40, "minerva": 272, "olympiadbench": 675}


def golds(folder, name):
    out = []
    for line in (folder/f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if name == "olympiadbench": out.append(", ".join(row["final_answer"]))
        elif name == "minerva": out.append(boxed(row["solution"])[0][-1][2])
        else: out.append(str(row["answer"]))
    assert len(out) == SETS[name]
    return out


@pytest.mark.parametrize("name", SETS)
def test_every_reference_answer_is_right(benchmarks, name):
    gold = golds(benchmarks, name)
    for form in ("So the result is $\\boxed{%s}$.", "%s",
                 "First \\boxed{0}, but no. Then\n\\[\\boxed{%s}\\]\nwhich was asked."):
        wrong = [(a, v)
                 for a, v in zip(gold, judge_many([(form.replace("%s", a), a) for a in gold]))
                 if not v.correct]
        assert not wrong, (form, wrong[:3])


def made_wrong(gold):
    "Deliberately wrong answers: `(kind, reference, wrong answer)`."
    for i, g in enumerate(gold):
        for m in {m.start(): m
                  for m in (list(re.finditer(r"\d+", g)) or [None])[::max(1, len(re.findall(r"\d+", g)) - 1)]
                  if m}.values():
            yield "off by one", g, f"{g[:m.start()]}{int(m[0]) + 1}{g[m.end():]}"
        c = clean(g)
        x = number(c)
        if x is not None and x.value: yield "sign", g, c[1:] if c.startswith("-") else "-" + c
        kind, items = _elements(c)
        if kind in ("()", "[]") and len(items) == 2 and _key(items[0]) != _key(items[1]):
            yield "swapped pair", g, f"{kind[0]}{items[1]}, {items[0]}{kind[1]}"
        if "\\sqrt" in g: yield "dropped root", g, re.sub(r"\\sqrt\s*(?:\[\d+\])?", "", g)
        other = gold[(i + 1) % len(gold)]
        if clean(other.split("=")[-1]) != clean(g.split("=")[-1]): yield "neighbour", g, other


def test_deliberately_wrong_answers_are_wrong(benchmarks):
    from collections import Counter
    kinds, right = Counter(), []
    for name in SETS:
        cases = list(made_wrong(golds(benchmarks, name)))
        kinds.update(k for k, *_ in cases)
        right += [case
                  for case, v in zip(cases, judge_many([(f"\\boxed{{{w}}}", g) for _, g, w in cases]))
                  if v.correct]
    assert not right, right[:5]
    assert kinds.total() >= 2000 and min(kinds.values()) >= 15, kinds


@pytest.mark.parametrize("answer, response",
                         [("\\frac{1}{2}", "0.5"), ("0.5", "\\frac12"), ("3\\frac{1}{2}", "3.5"),
                          ("1000000", "1,000,000"), ("10^{6}", "1000000"),
                          ("6.02 \\times 10^{23}", "6.02e23"), ("25\\%", "0.25"),
                          ("(-\\infty, 3) \\cup (5, \\infty)", "(5,\\infty)\\cup(-\\infty,3)"),
                          ("1, 2, 3", "\\{3, 1, 2\\}"), ("x = 4", "4"), ("4", "x = 4"),
                          ("x^2+2x+1", "(x+1)^2"), ("\\text{Monday}", "monday"), ("B", "\\text{(B)}"),
                          ("90^\\circ", "90"), ("\\$4.50", "4.5"), ("2\\sqrt{3}", "\\sqrt{12}"),
                          ("y = 2x - 1", "-1 + 2x"), ("\\frac{\\pi}{4}", "\\pi/4"),
                          ("2 \\pm \\sqrt{3}", "2-\\sqrt{3}, 2+\\sqrt{3}"),
                          ("(1, 2)", "\\left(1,\\,2\\right)"), ("1/3", "0.333333333"),
                          ("12\\text{ cm}", "12"), ("72", "72 clips"), ("1234", "1,234 small red hens"),
                          ("12", "\\text{12 eggs}")])
def test_other_spellings_are_right(answer, response):
    assert judge(f"\\boxed{{{response}}}", answer) == Verdict(True, response, "match")


@pytest.mark.parametrize("answer, response",
                         [("(1, 2)", "(2, 1)"), ("(1, 2)", "[1, 2]"), ("1, 2", "1, 2, 3"), ("1, 2", "1"),
                          ("0", "10^{-30}"), ("6.6e-34", "6.6e-33"), ("0.33", "1/3"), ("x+1", "y+1"),
                          ("12 \\text{ cm}", "12 \\text{ km}"), ("V - v", "v - V"), ("52_8", "52_9"),
                          ("B", "C"), ("\\text{even}", "\\text{odd}"), ("\\sqrt{2}", "2"), ("3", "3m"),
                          ("0.5", "50"), ("x < 2", "x > 2"), ("10 \\text{ a.m.}", "10 \\text{ p.m.}"),
                          ("12", "12 dozen"), ("12", "12 and more"), ("3", "3 thirds"), ("12", "13 eggs"),
                          ("12", "12 or 13 eggs"), ("12", "12 mod seven")])
def test_other_answers_are_wrong(answer, response):
    assert judge(f"\\boxed{{{response}}}", answer).reason == "mismatch"


@pytest.mark.parametrize("text, finish, reason",
                         [("", None, "no answer"), ("I do not know.", None, "no answer"),
                          ("so \\boxed{\\frac{1", "length", "truncated"),
                          ("12 + 30 = 42", "length", "truncated"),
                          ("<think>it is \\boxed{42}", "length", "truncated")])
def test_the_cause_is_named(text, finish, reason):
    assert judge(text, "42", finish) == Verdict(False, None, reason)


def test_a_reference_answer_that_is_nothing_is_the_data_s_fault():
    assert judge("\\boxed{1}", "").reason == judge("\\boxed{1}", None).reason == "bad ground truth"


def hostile(n=1000, seed=0):
    "Strings made to break parsers and to eat time or memory."
    rng = random.Random(seed)
    shapes = [lambda k: "\\boxed{" + "{"*k + "1", lambda k: "\\boxed{" + "{"*k + "x" + "}"*k + "}",
              lambda k: "\\boxed{"*k, lambda k: "\\boxed{" + "("*k + "1" + ")"*k + "}",
              lambda k: "\\boxed{" + "\\frac{1}{"*k + "x" + "}"*k + "}",
              lambda k: f"\\boxed{{10^{{{'9'*min(k, 300)}}}}}", lambda k: "\\boxed{x" + "^{x"*k + "}"*k + "}",
              lambda k: "\\boxed{" + "\\sqrt{"*k + "2" + "}"*k + "}", lambda k: "\\boxed{1\0" + "\0"*k + "}",
              lambda k: "\\boxed{\u202e" + "1\u202d"*k + "}", lambda k: "$"*k, lambda k: "\\("*k,
              lambda k: "answer is "*k, lambda k: "1,"*k, lambda k: "\\boxed{" + "1,"*k + "2}",
              lambda k: "\\text{"*k, lambda k: "\ud800"*k,
              lambda k: "\\boxed{"
              + "".join(rng.choice("\\{}()[]^_$+-*/=<>,.;|&%#@!~ \n\tx1abc") for _ in range(min(k, 300)))
              + "}", lambda k: "\\boxed{\\sum_{i=1}^{" + "9"*min(k, 30) + "} \\frac{1}{i}}", lambda k: "7"*k,
              lambda k: "\\boxed{\\left(\\right" + "\\begin{pmatrix}"*min(k, 50) + "}",
              lambda k: "\\boxed{\\int_0^1 " + "x\\sin("*min(k, 20) + "}"]
    return [shapes[i % len(shapes)](rng.choice((1, 3, 10, 60, 400, 10_000)))
            for i in range(n - 8)] + ["\\boxed{9^{9^{9^{9}}}}", "\\boxed{99999999!!}", "x"*1_000_000,
                                      "\\boxed{" + "1+"*500_000 + "1}", "{"*1_000_000, "$x"*500_000,
                                      " "*1_000_000, "\\boxed{10^{10^{10}}}"]


def children(pid=None):
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid or os.getpid())], capture_output=True,
                         text=True).stdout.split()
    return {int(p) for p in out} | {c for p in out for c in children(p)}


def memory_kb(pids):
    total = 0
    for p in pids:
        try: total += int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{p}/status").read())[1])
        except (OSError, TypeError): pass
    return total


def test_a_thousand_hostile_strings_end_and_leave_nothing_behind():
    close_workers()
    texts = hostile()
    assert len(texts) == 1000
    others = children()
    judge_many([("\\boxed{x+x}", "2x")]*8, workers=1)
    before = memory_kb(children())
    start = time.monotonic()
    verdicts = judge_many([(t, "\\frac{x}{7}+1") for t in texts], workers=1, timeout=0.3)
    took = time.monotonic() - start
    assert len(verdicts) == 1000 and not any(v.correct for v in verdicts)
    assert {v.reason for v in verdicts} <= {"no answer", "truncated", "mismatch",
                                            "timeout"} and any(v.reason == "timeout" for v in verdicts)
    assert took < 1000*0.3
    assert memory_kb(children()) < before + 300_000
    assert judge("\\boxed{1+x/7}", "\\frac{x}{7}+1").correct                 # and it still works
    pids = {p for p in children() - others if Path(f"/proc/{p}").exists()}   # `ps` is a child as well
    assert pids
    close_workers()
    time.sleep(0.2)
    assert not pids & children()


def test_hostile_ground_truth_is_survived():
    assert judge("\\boxed{x+1}", "9^{9^{9^{9}}}", timeout=0.3).reason in ("timeout", "mismatch",
                                                                          "bad ground truth")


def test_threads_share_workers_and_agree():
    out, items = {}, [("\\boxed{(x+1)^2}", "x^2+2x+1", True), ("\\boxed{x^2}", "x^2+1", False)]*4
    def run(k): out[k] = [judge(r, a).correct for r, a, _ in items]
    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert all(v == [w for *_, w in items] for v in out.values()) and len(out) == 4


def test_it_works_in_a_daemonic_worker_process():
    code = ("import multiprocessing as mp\nfrom spot_nb.verify import is_correct\n"
            "def f(q): q.put(is_correct('\\\\boxed{(x+1)^2}', 'x^2+2x+1'))\n"
            "if __name__ == '__main__':\n    c = mp.get_context('fork'); q = c.Queue(); p = "
            "c.Process(target=f, args=(q,), daemon=True); p.start(); print(q.get(timeout=60)); p.join()\n")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=90).stdout.strip() == "True"


def test_no_process_outlives_a_killed_program():
    code = ("import os, time\nfrom spot_nb.verify import judge\njudge('\\\\boxed{(x+1)^2}', 'x^2+2x+1'); "
            "print('ready', flush=True); time.sleep(60)")
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    workers = children(p.pid)
    assert workers
    p.kill(); p.wait()
    end = time.monotonic() + 15
    def alive(pid):
        try: return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError: return False
    while any(map(alive, workers)) and time.monotonic() < end: time.sleep(0.1)
    assert not any(map(alive, workers))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_any_text_gets_candidates_and_a_reason(text):
    found, reason = extract_candidates(text)
    assert (found and all(found)) or reason in ("no answer", "truncated")
    clean(text); number(clean(text)); _elements(clean(text))


@settings(max_examples=100, deadline=None)
@given(st.integers(-10**12, 10**12), st.integers(1, 10**6))
def test_numbers_are_compared_exactly(a, b):
    assert is_correct(f"\\boxed{{\\frac{{{a}}}{{{b}}}}}",
                      f"{a}/{b}") and not is_correct(f"\\boxed{{\\frac{{{a + 1}}}{{{b}}}}}", f"{a}/{b}")


KINDS = [(kind, right) for right, table in ((True, RIGHT), (False, WRONG)) for kind in table]


@pytest.mark.parametrize("kind, right", KINDS)
def test_each_kind_of_answer_both_ways(kind, right):
    cases = (RIGHT if right else WRONG)[kind]
    assert len(cases) >= 5
    amiss = [(r, a, v) for (r, a), v in zip(cases, (judge(r, a) for r, a in cases)) if v.correct is not right]
    assert not amiss, amiss[:3]


def test_judge_and_judge_many_agree():
    items = [case for table in (RIGHT, WRONG) for cases in table.values() for case in cases]
    assert judge_many(items) == [judge(*i) for i in items]


def moved(gold):
    "Wrong answers of further kinds: `(kind, reference, wrong answer)`."
    units = {"cm": "km", "m": "cm", "kg": "g", "seconds": "hours"}
    for i, g in enumerate(gold):
        c = clean(g)
        x, (_, items) = number(c), _elements(c)
        if x is not None and x.value and x.value.denominator == 1 and "." not in c and not x.percent:
            yield "point in front", g, f".{abs(x.value.numerator)}"
        if re.fullmatch(r"-?\d+\.\d+", c):
            whole, part = c.split(".")
            yield "point moved", g, f"{whole}{part[0]}.{part[1:]}" if len(part) > 1 else f"{whole}{part}"
            if x.value: yield "point dropped", g, whole + part
        if len(items) > 1 and all(number(y) is not None for y in items):
            yield "element changed", g, re.sub(re.escape(items[-1]) + r"(?=\D*$)", "987", c)
            yield "element lost", g, ", ".join(items[:-1])
        if x is not None:
            for a, b in units.items():
                yield "unit", f"{c} \\text{{ {a}}}" if x.value else "1 \\text{ m}", f"{c} \\text{{ {b}}}"
            if x.value:
                yield "sign inside", f"f({i})={c}", f"f({i})=" + (c[1:] if c.startswith("-") else "-" + c)
            if x.value: yield "word", g, f"{c} \\text{{ thousand}}"


def test_moved_points_changed_elements_units_and_signs_are_wrong(benchmarks):
    from collections import Counter
    kinds, right = Counter(), []
    for name in SETS:
        cases = list(moved(golds(benchmarks, name)))
        kinds.update(k for k, *_ in cases)
        right += [case
                  for case, v in zip(cases, judge_many([(f"\\boxed{{{w}}}", g) for _, g, w in cases]))
                  if v.correct]
    assert not right, (len(right), right[:8])
    assert kinds.total() >= 3000 and min(kinds.values()) >= 10, kinds


def test_rounding_is_a_policy():
    assert not is_correct("\\boxed{2.46e6}", "2.45e6") and is_correct("\\boxed{2.46e6}", "2.45e6",
                                                                      rounding="minerva")
    assert not is_correct("\\boxed{4\\sqrt2}", "5.66") and is_correct("\\boxed{4\\sqrt2}", "5.66",
                                                                      rounding="minerva")
    assert (not is_correct("\\boxed{246}", "245", rounding="minerva")
            and not is_correct("\\boxed{2.6e6}", "2.45e6", rounding="minerva"))
    assert ([v.correct
             for v in judge_many([("\\boxed{5.7}", "5.66", None, "minerva"), ("\\boxed{5.7}", "5.66")]*4)]
            == [True, False]*4)
    from spot_nb.records import SpotError
    with pytest.raises(SpotError, match="rounding"): judge("1", "1", rounding="loose")


class Chat(ThreadingHTTPServer):
    "A chat server on 127.0.0.1 that answers a question as `replies` says."
    def __init__(self, replies):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1][
                    "content"]
                text = replies[asked.split("\n\n")[0]]
                blob = json.dumps({"choices":
                                   [{"message": {"role": "assistant", "content": text},
                                     "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(blob)))
                self.end_headers()
                self.wfile.write(blob)
            def log_message(self, *args): pass
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


def elicited(folder, rows, replies, *flags):
    "Run `spot elicit` on `rows` against a server that gives `replies`; returns the summary."
    from spot_nb.elicit import cli
    data = folder/"rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    with Chat(replies) as server:
        cli(["--model", "m", "--engine", "openai", "--base_url", server.url, "--data_path", str(data),
             "--output_dir", str(folder/"out"), *flags])
        server.shutdown()
    return json.loads((folder/"out/summary.json").read_text())


def test_each_kind_through_the_command(tmp_path):
    cases = [(r, a, right) for right, table in ((True, RIGHT), (False, WRONG)) for kind in table
             for r, a in table[kind] if isinstance(r, str) and r and isinstance(a, str) and a]
    rows = [{"id": n, "question": f"Question {n}?", "answer": a} for n, (_, a, _) in enumerate(cases)]
    elicited(tmp_path, rows, {f"Question {n}?": r for n, (r, *_) in enumerate(cases)})
    found = {r["id"]: r["correct"]
             for r in map(json.loads, (tmp_path/"out/all_results.jsonl").read_text().splitlines())}
    assert len(found) == len(cases) > 250
    assert not [cases[n] for n, ok in found.items() if ok is not cases[n][2]]


STORY = ("We consider the remainders one after another and find that only one of them can occur, which "
         "settles the matter for good.")
SHAPES = {"OlympiadBench": lambda n: {"id": n, "question": f"Question {n}?",
                                      "solution": [f"{STORY} Then $x={n + 1}$ works."],
                                      "final_answer": [f"${n}$"], "answer_type": "Numerical", "unit": None,
                                      "is_multiple_answer": False},
          "GSM8K": lambda n: {"question": f"Question {n}?",
                              "answer": f"{STORY} "
                              f"{n}+1=<<{n}+1={n + 1}>>{n + 1}\n{n + 1}-1=<<{n + 1}-1={n}>>{n}\n#### {n}"},
          "AQuA": lambda n: {"question": f"Question {n}?",
                             "options": [f"{c}){n + k}" for k, c in enumerate("ABCDE")],
                             "rationale": f"{STORY} {n}+1={n + 1}. Answer: option {'ABCDE'[n % 5]}",
                             "correct": "ABCDE"[n % 5]},
          "DAPO": lambda n: {"prompt": f"Question {n}?", "solution": str(n), "data_source": "math_dapo",
                             "extra_info": {"index": f"k{n}"}},
          "MATH": lambda n: {"problem": f"Question {n}?", "solution": f"{STORY} Then $\\boxed{{{n}}}$.",
                             "level": "Level 1"}}


@pytest.mark.parametrize("shape", SHAPES)
def test_right_answers_to_rows_of_any_shape_are_all_right(shape, tmp_path, capsys):
    replies = {f"Question {n}?": f"Thus it is $\\boxed{{{'ABCDE'[n % 5] if shape == 'AQuA' else n}}}$."
               for n in range(10, 70)}
    s = elicited(tmp_path, [SHAPES[shape](n) for n in range(10, 70)], replies)
    assert s["samples"] == s["correct"] == 60 and s["accuracy"] == 1.0
    out = capsys.readouterr().out
    assert "gold answers as read" in out and "100.0%" in out


def test_the_rows_of_olympiadbench_answered_rightly_are_right(benchmarks, tmp_path):
    rows = [json.loads(l)
            for l in (benchmarks/"olympiadbench.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{**r, "id": n, "question": f"Question {n}?"} for n, r in enumerate(rows)]
    s = elicited(tmp_path, rows,
                 {r["question"]: f"Hence $\\boxed{{{', '.join(r['final_answer'])}}}$." for r in rows})
    assert s["samples"] == s["correct"] == 675


def test_gold_that_cannot_be_read_stops_the_command_before_anything_is_sampled(tmp_path):
    from spot_nb.records import SpotError
    rows = [{"question": f"Question {n}?", "answer": STORY if n % 8 == 0 else str(n)} for n in range(40)]
    with pytest.raises(SpotError, match="5 of 40 gold answers cannot be read.*--ignore_gold_check"):
        elicited(tmp_path, rows, {})
    assert not (tmp_path/"out/all_results.jsonl").exists()
    assert elicited(tmp_path, rows, {f"Question {n}?": f"\\boxed{{{n}}}" for n in range(40)},
                    "--ignore_gold_check")["correct"] == 35


def test_fifty_answers_without_a_right_one_stop_the_command(tmp_path):
    from spot_nb.records import SpotError
    rows, replies = [{"question": f"Question {n}?", "answer": str(n)}
                     for n in range(400)], {f"Question {n}?": f"\\boxed{{{n + 7}}}" for n in range(400)}
    with pytest.raises(SpotError, match="none of the first 50 .*--ignore_gold_check"):
        elicited(tmp_path, rows, replies)
    kept = len((tmp_path/"out/all_results.jsonl").read_text().splitlines())
    assert kept >= 50
    s = elicited(tmp_path, rows, replies, "--ignore_gold_check")
    assert s["samples"] == 400 and s["correct"] == 0 and s["kept_from_before"] == kept
