"""Elicitation: resumable, honest about what is no error, and its statistics are right."""
import itertools
import math

import pytest

from spot_nb.elicit import (answer_type, browse, cli, elicit, error_table,
                            pass_at_k, pass_table, plot_errors, rft_samples,
                            wilson)
from spot_nb.generate import Completion, Generator, Sampling
from spot_nb.records import SpotError, read_jsonl, write_jsonl


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
