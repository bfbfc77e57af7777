"""Evaluation: every task on rows in the hub's own columns, runs that stop and go on, figures that follow from
the scores."""
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from spot_nb import evaluate as ev
from spot_nb.evaluate import (REGISTRY, Task, bootstrap, chosen_letter, cli, compare, evaluate,
                              load_problems, pass_at_k, register, score_samples)
from spot_nb.generate import Completion, Generator, Sampling
from spot_nb.records import SpotError, read_json, read_jsonl, write_jsonl

quiet = lambda _: None
HUB = {"aime24": {"id": 60, "problem": "What is 100 + 4?", "solution": "So \\boxed{104}.", "answer": "104",
                  "url": "u", "year": "2024"},
       "aime25": {"problem": "What is 60 + 10?", "solution": "70", "answer": "070", "id": "0"},
       "amc23": {"id": 0, "problem": "Half of 55?", "answer": 27.5, "url": "u", "question": "Half of 55?"},
       "math_500": {"problem": "Half as a fraction?", "solution": "It is $\\boxed{\\frac12}$.",
                    "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 1, "unique_id": "x/1.json"},
       "minerva": {"problem": "How long is it?",
                   "solution": "First \\boxed{3} then, in the end, $\\boxed{1.6}$ cm.", "type": "t",
                   "idx": 0},
       "olympiadbench": {"id": 1, "subfield": "Algebra", "context": None, "question": "Solve it.",
                         "solution": ["s"], "final_answer": ["$3,5$"], "is_multiple_answer": True,
                         "unit": None, "error": None},
       "gpqa:diamond": {"Question": "Which is noble?", "Correct Answer": "Neon\n",
                        "Incorrect Answer 1": "Iron", "Incorrect Answer 2": "Lead",
                        "Incorrect Answer 3": "Zinc", "Record ID": "r"},
       "truthfulqa": {"question": "Can pigs fly?",
                      "mc1_targets": {"choices": ["No", "Yes", "Only at night"], "labels": [1, 0, 0]},
                      "mc2_targets": {"choices": [], "labels": []}},
       "mmlu_pro_500": {"question_id": 7, "question": "2 + 2?", "options": ["3", "4", "5", "N/A"],
                        "answer": "B", "answer_index": 1, "category": "math"},
       "ifeval": {"key": 1, "prompt": "Speak without commas.",
                  "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]},}


def gold_reply(task, p):
    if task.scorer == "connect4":
        from spot_nb.connect4 import render_answer
        return render_answer(p["answer"])
    return "Fine." if task.scorer == "ifeval" else f"So it is \\boxed{{{p['answer']}}}."

@pytest.mark.parametrize("name", HUB)
def test_each_task_reads_the_hubs_columns(name, tmp_path):
    if name == "ifeval": pytest.importorskip("lm_eval", reason="needs the ifeval extra")
    write_jsonl(tmp_path/f"{name.replace(':', '-')}.jsonl", [HUB[name]])
    task = REGISTRY[name]
    problems, made = load_problems(task, tmp_path)
    right, wrong = score_samples(task,
                                 [(problems[0], {"text": t, "finish_reason": "stop"})
                                  for t in (gold_reply(task, problems[0]), "No, \\boxed{-77}, sorry.")])
    assert right["score"] == 1 and wrong["score"] == 0
    assert (made["questions"] == 1 and "sha256" in made["data"] and "{question}" not in problems[0]["prompt"]
            and "{options}" not in problems[0]["prompt"])

MATH_FILES = {"aime24": 30, "aime25": 30, "amc23": 40, "math_500": 500, "minerva": 272, "olympiadbench": 675,
              "ifeval": 541}

def test_all_published_questions_load_render_and_score_their_gold(benchmarks):
    total = 0
    for name, n in MATH_FILES.items():
        task = REGISTRY[name]
        problems, _ = load_problems(task, benchmarks)
        assert len(problems) == len({p["id"] for p in problems}) == n
        total += n
        # test_ifeval writes an answer for each instruction
        if name == "ifeval":
            continue
        scores = score_samples(task,
                               [(p, {"text": gold_reply(task, p), "finish_reason": "stop"})
                                for p in problems])
        assert [p["answer"] for p, s in zip(problems, scores) if s["score"] != 1] == []
        sample = list(zip(problems, problems[1:] + problems[:1]))[::7]
        wrong = score_samples(task,
                              [(p, {"text": gold_reply(task, q), "finish_reason": "stop"})
                               for p, q in sample if p["answer"] != q["answer"]])
        # another question's answer is wrong, save for coincidences
        assert sum(s["score"] for s in wrong) <= .05*len(wrong) + 1
    assert total == 2088

@pytest.mark.parametrize("text, letter",
                         [("\\boxed{B}", "B"), ("\\boxed{b}", "B"), ("\\boxed{\\text{(C)}}", "C"),
                          ("\\boxed{A. Neon}", "A"), ("I say A, no: the answer is **D**.", "D"),
                          ("Answer: (A)\nAnswer: B", "B"), ("Reasoning.\n\n**C**", "C"),
                          ("<think>\\boxed{A}</think>\\boxed{D}", "D"), ("A cat sat.", None),
                          ("\\boxed{E}", None), ("", None),
                          ("Since the answer is a value above 3, this one holds:\nC", "C"),
                          ("the answer is a guess", None)])
def test_chosen_letter(text, letter): assert chosen_letter(text, "ABCD") == letter

class Adder(Generator):
    "Adds the two numbers in a prompt; about `slips` responses in ten are off by one, always the same ones."
    def __init__(self, slips=3, version="1", stop_after=None, short=(), reasons=("stop",)):
        self.slips, self.version, self.stop_after, self.short, self.reasons, self.asked = (slips, version,
                                                                                           stop_after, short,
                                                                                           reasons, [])
    def info(self): return {"engine": "adder", "version": self.version, "model": "adder"}
    def stream(self, prompts, sampling=None):
        order = list(range(len(prompts)))
        random.Random(0).shuffle(order)  # finishing order is not prompt order
        for done, i in enumerate(order):
            if done == self.stop_after: raise KeyboardInterrupt
            a, b = map(int, __import__("re").search(r"(\d+) \+ (\d+)", prompts[i]).groups())
            self.asked.append((a, b))
            n = sampling.n - 1 if b in self.short else sampling.n
            yield i, [Completion(f"\\boxed{{{a + b + ((13*a + 7*b + 3*j) % 10 < self.slips)}}}",
                                 self.reasons[(b + j) % len(self.reasons)], 5) for j in range(n)]

@pytest.fixture
def sums(tmp_path):
    for name, a, trials in (("sums", 19, 4), ("more", 40, 2)):
        write_jsonl(tmp_path/f"{name}.jsonl",
                    [{"question": f"What is {a} + {i}?", "answer": a + i} for i in range(50)])
        register(Task(name, str(tmp_path/f"{name}.jsonl"), trials=trials))
    yield tmp_path
    for name in ("sums", "more"): REGISTRY.pop(name)

def test_a_killed_run_goes_on_and_equals_an_unbroken_one(sums):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Adder(stop_after=17), ["sums", "more"], sums/"run", report=quiet)
    assert not (sums/"run"/"aggregated_results.json").exists()
    with open(sums/"run"/"responses"/"sums.jsonl", "a") as f: f.write('{"id": "torn')
    engine = Adder()
    out = evaluate(engine, ["sums", "more"], sums/"run", report=quiet)
    assert len(engine.asked) == 100 - 17 and len(set(engine.asked)) == 83
    assert out["tasks"] == evaluate(Adder(), ["sums", "more"], sums/"whole", report=quiet)["tasks"]
    idle = Adder()
    evaluate(idle, ["sums"], sums/"run", report=quiet)
    assert idle.asked == []

def test_an_earlier_result_outlives_a_run_that_cannot_load_its_data_or_score_it(sums, monkeypatch):
    first = evaluate(Adder(), ["sums"], sums/"run", report=quiet)["tasks"]["sums"]
    (sums/"sums.jsonl").rename(sums/"gone.jsonl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = evaluate(Adder(), ["sums", "more"], sums/"run", report=quiet)
    assert out["tasks"]["sums"] == first and "more" in out["tasks"] and set(out["missing"]) == {"sums"}
    (sums/"gone.jsonl").rename(sums/"sums.jsonl")
    register(Task("sums", str(sums/"sums.jsonl"), trials=4, scorer=lambda response, p: 1/0))
    out = evaluate(Adder(), ["sums", "more"], sums/"run", report=quiet)
    assert out["tasks"]["sums"] == first and "ZeroDivisionError" in out["missing"]["sums"]

def test_overwrite_drops_the_named_tasks_only(sums):
    before = evaluate(Adder(), ["sums", "more"], sums/"run", report=quiet)["tasks"]
    engine = Adder(slips=9)
    after = evaluate(engine, ["sums"], sums/"run", overwrite=True, report=quiet)["tasks"]
    assert (after["more"] == before["more"] and after["sums"]["mean"] < before["sums"]["mean"]
            and len(engine.asked) == 50)
    register(Task("sums", str(sums/"sums.jsonl"), trials=4, scorer=lambda response, p: 1/0))
    assert set(evaluate(Adder(), ["sums", "more"], sums/"run", overwrite=True,
                        report=quiet)["tasks"]) == {"more"}

@pytest.mark.parametrize("content",
                         ['{"version": 1, "model": "another", "tasks": {"more": {"mean": 1}}, '
                          '"kl": {"mean": 1}}', '{"version": 0}', "[]", "{torn"])
def test_overwrite_replaces_what_it_cannot_use(sums, content):
    (sums/"run").mkdir()
    (sums/"run"/"aggregated_results.json").write_text(content)
    with pytest.raises(SpotError, match="aggregated_results"):
        evaluate(Adder(), ["sums"], sums/"run", report=quiet)
    out = evaluate(Adder(), ["sums"], sums/"run", overwrite=True, report=quiet)
    assert set(out["tasks"]) == {"sums"} and "kl" not in out

def test_a_measured_kl_stays_until_it_is_measured_again(sums, monkeypatch):
    monkeypatch.setattr("spot_nb.generate.make_generator", lambda *_, **__: Adder())
    found = iter([1.5, 2.5])
    monkeypatch.setattr(ev, "_kl_of", lambda base,
                        *_: {"mean": next(found), "interval": [1.0, 3.0], "tokens": 9, "base": base})
    run = lambda *more: cli(["adder", "--tasks", "sums", "-o", str(sums/"run"),
                             *more]) or read_json(sums/"run"/"aggregated_results.json")["kl"]["mean"]
    assert [run("--base", "b"), run(), run("--overwrite"), run("--base", "b")] == [1.5, 1.5, 1.5, 2.5]

def test_a_limited_run_says_so(sums):
    limit = lambda **kw: evaluate(Adder(), ["sums"], sums/"run", report=quiet,
                                  **kw)["tasks"]["sums"]["provenance"].get("limit")
    assert [limit(limit=3), limit(), limit(limit=50)] == [3, None, None]
    from spot_nb.tables import load_scores
    evaluate(Adder(), ["sums", "more"], sums/"part", limit=3, report=quiet)
    assert sum("--limit 3" in note
               for note in load_scores(sums/"part")[2]) == 2 and load_scores(sums/"run")[2] == []

def test_a_source_may_be_named_freely_and_an_unknown_one_is_an_error(sums):
    for name in ("AIME24", "custom|aime24|0|0"):
        assert "file more.jsonl" in evaluate(Adder(), ["aime24"], sums/_slug(name),
                                             sources={name: str(sums/"more.jsonl")}, trials=1,
                                             report=quiet)["tasks"]["aime24"]["provenance"]["data"]
    for call in (lambda: evaluate(Adder(), ["sums"], sums/"run", sources={"aime23": "x"}, report=quiet),
                 lambda: cli(["m", "--source", "aime23=x", "-o", str(sums/"run")])):
        with pytest.raises(SpotError,
                           match="'aime23' to give another source; did you mean .* Tasks: aime24, "):
            call()
    with pytest.raises(SpotError, match="no task ''"):
        evaluate(Adder(), ["sums"], sums/"run", sources={"": "x"}, report=quiet)

def _slug(name): return "".join(c for c in name if c.isalnum())

def test_one_folder_has_one_fingerprint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"m").mkdir()
    (tmp_path/"m"/"config.json").write_text("{}")
    assert len({ev.model_fingerprint(m)
                for m in ("m", "m/", "./m", "m//")}) == 1 and ev.model_fingerprint("m").startswith("m ")
    assert (ev.model_fingerprint(f"{tmp_path}/m/") == ev.model_fingerprint(f"{tmp_path}/m")
            != ev.model_fingerprint("m"))
    assert ev.model_fingerprint("org/name") == "org/name"

@pytest.mark.parametrize("change, message",
                         [({"trials": 3}, "sampling.n"),
                          ({"sampling": Sampling(temperature=0)}, "temperature"),
                          ({"sampling": Sampling(seed=5)}, "seed"), ({"seed": 9}, "seed")])
def test_another_setting_in_the_same_folder_is_refused(sums, change, message):
    evaluate(Adder(), ["sums"], sums/"run", report=quiet)
    with pytest.raises(SpotError, match=message):
        evaluate(Adder(), ["sums"], sums/"run", report=quiet, **change)
    assert evaluate(Adder(), ["sums"], sums/"run", report=quiet, overwrite=True,
                    **change)["tasks"]["sums"]["complete"]

def test_fewer_samples_are_named_and_asked_again(sums):
    said = []
    t = evaluate(Adder(short=(3, 4)), ["sums"], sums/"run", report=said.append)
    assert (t["tasks"]["sums"]["questions"] == 48 and not t["tasks"]["sums"]["complete"]
            and "2 of 50 questions got fewer than 4" in said[0])
    engine = Adder()
    assert (evaluate(engine, ["sums"], sums/"run", report=quiet)["tasks"]["sums"]["complete"]
            and sorted(b for _, b in engine.asked) == [3, 4])

def test_cut_off_responses_are_counted(sums):
    t = evaluate(Adder(reasons=("stop", "length", "prompt_too_long", "stop")), ["sums"], sums/"run",
                 report=quiet)["tasks"]["sums"]
    assert t["truncated"] == 25 and t["too_long"] == 25

def test_one_bad_task_does_not_stop_the_others(sums, monkeypatch):
    def gated(*_, **__):
        raise SpotError("'Idavidrein/gpqa' is no file here, and the hub did not give it (gated)")
    monkeypatch.setattr(ev, "read_rows", lambda source, *a,
                        **k: gated() if "gpqa" in str(source) else [json.loads(l) for l in open(source)])
    register(Task("broken", str(sums/"sums.jsonl"), scorer=lambda response, p: float("nan")))
    register(Task("raises", str(sums/"sums.jsonl"), scorer=lambda response, p: 1/0))
    try: out = evaluate(Adder(), ["gpqa", "broken", "raises", "sums"], sums/"run", report=quiet)
    finally: REGISTRY.pop("broken"), REGISTRY.pop("raises")
    assert set(out["tasks"]) == {"sums"} and set(out["missing"]) == {"gpqa:diamond", "broken", "raises"}
    assert ("accept its terms" in out["missing"]["gpqa:diamond"] and "nan" in out["missing"]["broken"]
            and "ZeroDivisionError" in out["missing"]["raises"])

def test_no_task_at_all_is_an_error(tmp_path):
    with pytest.raises(SpotError, match="no folder"):
        evaluate(Adder(), ["aime24"], tmp_path/"run", data_dir=tmp_path/"none", report=quiet)

def test_compare_is_paired(sums):
    evaluate(Adder(slips=4), ["sums", "more"], sums/"a", report=quiet)
    evaluate(Adder(slips=2, version="2"), ["sums"], sums/"b", report=quiet)
    c = compare(sums/"a", sums/"b/aggregated_results.json")
    a, b = ({r["id"]: sum(r["scores"])/4 for r in read_jsonl(sums/x/"scores"/"sums.jsonl")} for x in "ab")
    t = c.tasks["sums"]
    assert (t["difference"] == pytest.approx(100*sum(b[i] - a[i] for i in a)/50)
            and t["interval"][0] <= t["difference"] <= t["interval"][1])
    assert (set(t["gained"]) == {i for i in a if a[i] < .5 <= b[i]}
            and set(t["lost"]) == {i for i in a if b[i] < .5 <= a[i]})
    assert any("engine.version: '1' and '2'" in w for w in c.warnings) and any("more is only in" in w
                                                                               for w in c.warnings)
    assert "| sums |" in c.markdown()
    wide = ev.bootstrap([a[i] for i in a])
    assert t["interval"][1] - t["interval"][0] < 100*(wide[1] - wide[0])*2

def test_pass_at_k_equals_enumeration():
    from itertools import combinations
    for n in (1, 4, 6):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([1]*c + [0]*(n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws))/len(draws))
    with pytest.raises(SpotError): pass_at_k(4, 5, 1)

def test_bootstrap_interval_covers():
    "Of 200 samples of 100 coin throws, about 95% of the intervals hold the true mean."
    rng, hits = random.Random(0), 0
    for i in range(200):
        low, high = bootstrap([float(rng.random() < .3) for _ in range(100)], draws=400, seed=i)
        hits += low <= .3 <= high
    assert 178 <= hits <= 199

def test_command_runs_the_student_and_goes_on_after_a_kill(tmp_path):
    write_jsonl(tmp_path/"aime24.jsonl",
                [{"problem": f"What is {i} + 3?", "answer": i + 3} for i in range(4)])
    command = [sys.executable, "-m", "spot_nb.cli", "evaluate", "embedded", "--tasks", "custom|aime24|0|0",
               "--trials", "2", "--max_tokens", "40", "--batch_size", "2", "--data_dir", str(tmp_path), "-o",
               str(tmp_path/"run")]
    responses = tmp_path/"run"/"responses"/"aime24.jsonl"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 120
    while time.time() < until and child.poll() is None and not (responses.is_file()
                                                                and responses.stat().st_size):
        time.sleep(.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    early = responses.read_text()
    assert early and 1 <= early.count("\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert responses.read_text().startswith(early[:early.rindex("\n")
                                                  + 1]) and responses.read_text().count("\n") == 4
    result = read_json(tmp_path/"run"/"aggregated_results.json")["tasks"]["aime24"]
    assert (result["questions"] == 4 and result["trials"] == 2
            and result["provenance"]["engine"]["engine"] == "transformers")
