"""Elicitation: resumable, honest about what is no error, and its statistics are right."""
import itertools
import json
import math

import pytest

from spot_nb.elicit import (answer_type, as_problem, browse, cli, elicit, error_table,
                            is_english, load_problems, pass_at_k, pass_table, plot_errors, rft_samples,
                            unwrap, wilson)
from spot_nb.generate import Completion, Generator, Sampling
from spot_nb.records import SpotError, read_json, read_jsonl, write_jsonl


class Scripted(Generator):
    "Answers from a function of the prompt; fails when `after` prompts are done."
    def __init__(self, answer, after=None): self.answer, self.after, self.asked = answer, after, []
    def info(self): return {"engine": "scripted", "model": "m"}
    def stream(self, prompts, sampling=None):
        for n, i in enumerate(reversed(range(len(prompts)))):
            if n == self.after: raise KeyboardInterrupt
            self.asked.append(prompts[i])
            yield i, [self.answer(prompts[i], k) for k in range(sampling.n)]


def problems(n):
    return [{"id": i, "prompt": f"What is {i} + 1?", "answer": str(i + 1), "source": "t"} for i in range(n)]
def right(p, k=0): return Completion(f"\\boxed{{{int(p.split()[2]) + 1}}}", "stop", 5)
def wrong(p, k=0): return Completion("\\boxed{-1}", "stop", 5)


def test_four_files_and_what_is_no_error(tmp_path):
    special = {0: Completion("", "stop", 1), 1: Completion("", "prompt_too_long"),
               2: Completion("let me see, 2", "length", 9), 3: Completion("\\boxed{9}", "stop", 3),
               5: Completion("", "error")}
    s = elicit(problems(7), Scripted(lambda p, k: special.get(int(p.split()[2]), right(p))), tmp_path,
               Sampling())
    assert s["reasons"] == {"match": 2, "truncated": 1, "mismatch": 1, "empty": 1,
                            "prompt_too_long": 1} and s["failed"] == 1
    assert ({r["id"] for r in read_jsonl(tmp_path/"errors.jsonl")} == {2, 3}
            and {r["id"] for r in read_jsonl(tmp_path/"correct_results.jsonl")} == {4, 6})
    assert s["samples"] == 6 and read_json(tmp_path/"summary.json")["accuracy"] == s["accuracy"] == 0.4
    record = read_jsonl(tmp_path/"errors.jsonl")[0]
    assert {"id", "prompt", "answer", "source", "response", "extracted", "correct", "finish_reason",
            "sampling"} <= set(record)


def test_an_interrupted_run_asks_only_for_the_rest(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        elicit(problems(10), Scripted(wrong, after=4), tmp_path, Sampling())
    on_disk = {r["id"] for r in read_jsonl(tmp_path/"all_results.jsonl")}
    assert len(read_jsonl(tmp_path/"errors.jsonl")) == len(on_disk) <= 4
    with open(tmp_path/"all_results.jsonl", "a") as f: f.write('{"id": 99, "torn')
    second = Scripted(wrong)
    s = elicit(problems(10), second, tmp_path, Sampling())
    assert len(second.asked) == 10 - len(on_disk) and s["samples"] == s["errors"] == 10
    third = Scripted(wrong)
    assert elicit(problems(10), third, tmp_path, Sampling())["samples"] == 10 and not third.asked
    with pytest.raises(SpotError, match="temperature"):
        elicit(problems(10), third, tmp_path, Sampling(temperature=1.0))
    assert elicit(problems(3), Scripted(right), tmp_path, Sampling(temperature=1.0),
                  resume=False)["samples"] == 3


def test_target_errors_stops_early(tmp_path):
    g = Scripted(wrong)
    s = elicit(problems(2000), g, tmp_path, Sampling(), target_errors=5)
    assert 5 <= s["errors"] < 1000
    assert elicit(problems(2000), g, tmp_path, Sampling(), target_errors=5)["sampled_now"] == 0


def test_n_samples_feed_pass_at_k_and_rft(tmp_path):
    s = elicit(problems(4), Scripted(lambda p, k: right(p) if k < 3 else wrong(p)), tmp_path, Sampling(n=4))
    samples = read_jsonl(tmp_path/"all_results.jsonl")
    assert s["samples"] == 16 and len({r["id"] for r in samples}) == 16
    assert pass_table(samples) == {1: 0.75, 2: 1.0, 4: 1.0}
    assert len(rft_samples(samples)) == 4                                     # three equal texts are one


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            assert abs(pass_at_k(n, c, k)
                       - sum(min(d) < c for d in itertools.combinations(range(n), k))/math.comb(n, k)) < 1e-12
    for bad in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(SpotError): pass_at_k(*bad)


def test_both_forms_of_dapo_give_one_problem():
    verl = {"prompt":
            [{"role": "user",
              "content": "Solve the following math problem carefully.\n\nFind "
              "$x$.\n\nIt is a\n\ninteger.\n\nRemember to put your answer last."}],
            "reward_model": {"ground_truth": "3"}, "extra_info": {"index": "k"}, "data_source": "d"}
    plain = {"prompt": "Find $x$.\n\nIt is a\n\ninteger.", "solution": "3", "extra_info": {"index": "k"},
             "data_source": "d"}
    assert as_problem(verl) == as_problem(plain) and unwrap("one\n\ntwo\n\nthree") == "one\n\ntwo\n\nthree"
    assert (as_problem({"problem": "q", "solution": "so \\boxed{4}"})["answer"] == "4"
            and as_problem({"question": "q", "answer": 27.0})["answer"] == "27.0")


def test_problems_are_filtered_and_counted(tmp_path):
    rows = [{"id": 1, "prompt": "a?", "answer": "1"}, {"id": 1, "prompt": "b?", "answer": "1"},
            {"id": 2, "prompt": "a?", "answer": "1"}, {"id": 3, "prompt": "计算", "answer": "1"}]
    for kind in ("jsonl", "json", "csv", "parquet"):
        path = tmp_path/f"p.{kind}"
        if kind == "jsonl": write_jsonl(path, rows)
        elif kind == "json": path.write_text(json.dumps(rows))
        else:
            import pandas as pd
            frame = pd.DataFrame(rows)
            frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
        got, stats = load_problems(path)
        assert ([p["prompt"].split("\n")[0] for p in got] == ["a?", "b?"]
                and (stats["duplicates"], stats["other_language"], stats["ids_renamed"]) == (1, 1, 1))
    assert len(load_problems(rows, language="all")[0]) == 3 and len(load_problems(rows,
                                                                                  max_samples=1)[0]) == 1
    with pytest.raises(SpotError, match="record 1"): load_problems([{"prompt": "x"}])
    with pytest.raises(SpotError, match="language"): load_problems(rows[3:])


def test_english_is_told_by_script():
    assert (is_english("Find α + β ≤ π for ℝ, naïve") and is_english("") and not is_english("Найдите x")
            and not is_english("求 x"))


def test_the_command_s_errors_are_one_sentence(tmp_path):
    data = tmp_path/"p.jsonl"
    write_jsonl(data, problems(2))
    base = ["--model", "embedded", "--data_path", str(data), "--output_dir", str(tmp_path/"o")]
    for extra, word in ((["--enable-thinking", "--disable-thinking"], "contradict"),
                        (["--temperature", "-1"], "temperature"), (["--engine", "warp"], "engine"),
                        (["--chat_template", "/no"], "chat_template")):
        with pytest.raises(SpotError, match=word): cli(base + extra)
    (tmp_path/"o").mkdir()
    (tmp_path/"o"/"all_results.jsonl").write_text('{"id": "a"}\n')
    (tmp_path/"o"/"run.json").write_text('{"model": "another", "sampling": {}}')
    with pytest.raises(SpotError, match="model.*--overwrite"): cli(base)
    assert (tmp_path/"o"/"all_results.jsonl").read_text() == '{"id": "a"}\n'


def test_a_full_disk_stops_with_everything_so_far(tmp_path, monkeypatch):
    from spot_nb import elicit as module
    real, count = module.Store.append, itertools.count()
    def append(self, record):
        if next(count) == 3:
            raise SpotError("all_results.jsonl could not be written (No space left on device): free some "
                            "space and run again")
        real(self, record)
    monkeypatch.setattr(module.Store, "append", append)
    with pytest.raises(SpotError, match="No space"):
        elicit(problems(8), Scripted(wrong), tmp_path, Sampling())
    monkeypatch.setattr(module.Store, "append", real)
    assert elicit(problems(8), Scripted(wrong), tmp_path, Sampling())["samples"] == 8


def test_responses_without_their_thinking_are_refused_and_what_was_sampled_is_kept(tmp_path):
    stripped = lambda p, k: Completion("\\boxed{-1}", "stop", 9, "3 + 4") if "What is 4 " in p else wrong(p)
    with pytest.raises(SpotError, match="--reasoning-parser.*--enable_thinking false"):
        elicit(problems(8), Scripted(stripped), tmp_path, Sampling())
    assert [r["id"] for r in read_jsonl(tmp_path/"all_results.jsonl")] == [7, 6, 5]
    assert elicit(problems(8), Scripted(wrong), tmp_path, Sampling())["sampled_now"] == 5


def test_an_answer_that_is_an_object_points_to_its_task():
    with pytest.raises(SpotError, match="record 1: answer is an object.*--task json"):
        as_problem({"question": "Due: 5", "answer": {"due": 5}}, where="record 1")


def test_tables_and_pictures():
    records = [{"id": i, "prompt": "p", "answer": a, "response": "r"*9, "extracted": "1",
                "correct": i % 3 == 0, "reason": "match" if i % 3 == 0 else "mismatch",
                "finish_reason": "stop", "n_tokens": i + 1, "source": "s"}
               for i, a
               in enumerate(["1", "\\frac{1}{2}", "0.5", "(1,2)", "1,2", "\\text{even}", "x+1", "y=x"]*3)]
    t = error_table(records)
    assert set(t.index) == {"integer", "fraction", "decimal", "interval or tuple", "list", "words",
                            "expression", "equation"} and t["samples"].sum() == 24
    assert abs(t["share of errors"].sum() - 1) < 0.01 and ((t["low"] <= t["accuracy"])
                                                           & (t["accuracy"] <= t["high"])).all()
    assert len(plot_errors(records, [{"rejected": "a b c", "chosen": "a b d"}]).axes) == 4
    assert "&lt;" in browse([{**records[0], "response": "<script>"}], 1)._repr_html_()
    assert wilson(0, 0) == (0.0,
                            1.0) and wilson(5, 10)[0] < 0.5 < wilson(5, 10)[1] and answer_type("") == "none"
    with pytest.raises(SpotError): error_table(records, "mood")


def test_resuming_refuses_other_problems_under_the_same_ids(tmp_path):
    elicit(problems(3), Scripted(right), tmp_path, Sampling())
    for changed in ({"prompt": "What is 7 + 1?"}, {"answer": "8"}):
        with pytest.raises(SpotError, match="problem with id 2"):
            elicit(problems(2) + [{**problems(3)[2], **changed}], Scripted(right), tmp_path, Sampling())
    assert len(read_jsonl(tmp_path/"all_results.jsonl")) == 3
    more = Scripted(right)
    assert elicit(problems(5), more, tmp_path, Sampling())["samples"] == 5 and len(more.asked) == 2


def test_what_was_sampled_is_judged_and_kept_when_the_engine_fails(tmp_path):
    class Failing(Scripted):
        def stream(self, prompts, sampling=None):
            yield from super().stream(prompts, sampling)
            raise SpotError("the engine died")
    algebra = lambda p, k=0: Completion("\\boxed{(x+1)(x+2)}", "stop", 9)
    rows = [{**p, "answer": "x^2 + 3x + 2"} for p in problems(30)]
    with pytest.raises(SpotError, match="engine died"): elicit(rows, Failing(algebra), tmp_path, Sampling())
    assert len(read_jsonl(tmp_path/"correct_results.jsonl")) == 30


def test_odd_rows():
    assert as_problem({"question": "q", "answer": "48 / 2 = 24\n48 + 24 = 72\n#### 72"})["answer"] == "72"
    assert load_problems([{"id": {"$oid": "5f"}, "prompt": "p", "answer": 1}])[0][0]["id"] == '{"$oid": "5f"}'
    assert len({str(p["id"])
                for p
                in load_problems([{"id": 1, "prompt": "p", "answer": 1},
                                  {"id": "1", "prompt": "q", "answer": 1}])[0]}) == 2
    with pytest.raises(SpotError, match="record 1"):
        load_problems([{"prompt": ["hi"], "reward_model": {"ground_truth": "1"}}])
    with pytest.raises(SpotError, match="max_samples"):
        load_problems([{"prompt": "p", "answer": 1}], max_samples=0)
