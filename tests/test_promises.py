"""What the commands promise about money, files and figures, typed as a user types it."""
import pytest
from conftest import ChatServer
from spot_nb.cli import main
from spot_nb.oracle import END, START
from spot_nb.records import SpotError, read_jsonl, write_json, write_jsonl

ERRORS = [{"id": f"e{i}", "prompt": f"What is {i} + 1?", "response": f"\\boxed{{{i}}}", "answer": str(i + 1)}
          for i in range(1, 13)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    write_jsonl("errors.jsonl", ERRORS)
    return tmp_path


@pytest.fixture
def server():
    "Each reply is a right correction and costs 100 + 50 tokens."
    def reply(prompt):
        e = next(e for e in ERRORS[::-1] if e["prompt"] in prompt)
        return f"{START}\n\\boxed{{{e['answer']}}}\n{END}"
    with ChatServer(reply, (100, 50)) as s: yield s.url, s.asked


def rectify(url, *more):
    return main(["rectify", "--data", "errors.jsonl", "--output", "raw.jsonl", "--oracle", "openai",
                 "--oracle_model", "m", "--base_url", url, "--workers", "1", *more])


@pytest.mark.parametrize("budget", [0.0006, 0.0011, 1])
def test_a_price_counts_on_this_machine_too(here, server, budget):
    rectify(server[0], "--price", "1,2", "--max_cost_usd", str(budget))        # $0.0002 a call
    rows = read_jsonl("raw.jsonl")
    spent = sum(r["usage"]["cost_usd"] for r in rows)
    assert len(server[1]) == len(rows) and spent == pytest.approx(0.0002*len(rows)) and spent <= budget
    assert len(rows) == 12 if budget == 1 else 0 < len(rows) < 12


def test_without_a_price_a_server_on_this_machine_is_free_and_says_so(here, server, capsys):
    assert rectify(server[0]) == 0
    told = capsys.readouterr()
    assert len(read_jsonl("raw.jsonl")) == 12 and "free" in (told.out + told.err).lower()


def test_nothing_is_asked_twice_and_other_settings_are_refused(here, server, capsys):
    assert rectify(server[0]) == 0
    n = len(server[1])
    assert rectify(server[0]) == 0 and len(server[1]) == n  # the same command: nothing
    write_jsonl("errors.jsonl", [{**ERRORS[0], "response": "\\boxed{77}"}, *ERRORS[1:]])
    capsys.readouterr()
    assert rectify(server[0]) == 2 and len(server[1]) == n
    assert "corrects another response" in capsys.readouterr().err
    paid = {r["id"] for p in here.glob("raw*.jsonl") for r in read_jsonl(p) if "id" in r}
    assert paid >= {e["id"] for e in ERRORS}                                   # nothing paid is deleted


@pytest.mark.parametrize("command", [
    ["rectify", "--data", "errors.jsonl", "--output", "o.jsonl", "--oracle", "openai", "--oracle_model", "m",
     "--base_url", "http://127.0.0.1:9/v1"],
    ["elicit", "--model", "m", "--engine", "openai", "--base_url", "http://127.0.0.1:9/v1", "--data",
     "problems.jsonl", "--output", "e"],
    ["evaluate", "--model", "m", "--engine", "openai", "--base_url", "http://127.0.0.1:9/v1", "--data",
     "problems.jsonl", "--output", "v"]])
def test_a_dead_server_is_named_at_once(here, capsys, command):
    import time
    write_jsonl("problems.jsonl", [{"question": e["prompt"], "answer": e["answer"]} for e in ERRORS])
    start = time.monotonic()
    assert main(command) != 0
    told = capsys.readouterr()
    assert time.monotonic() - start < 30 and "127.0.0.1:9" in told.err and "next:" not in told.out
    assert len(told.err.strip().splitlines()) <= 3


@pytest.mark.parametrize("command, file", [
    (["connect4", "--n", "3", "-o", "mine.jsonl"], "mine.jsonl"),
    (["filter", "pairs.jsonl", "--model", "embedded", "-o", "mine.jsonl"], "mine.jsonl"),
    (["inspect", "pairs.jsonl", "-o", "mine.html"], "mine.html"),
    (["tables", "-o", "mine.md"], "mine.md")])
def test_a_file_of_somebody_else_is_not_overwritten(here, capsys, command, file):
    write_jsonl("pairs.jsonl", [{"id": 1, "prompt": "q", "rejected": "\\boxed{1}", "chosen": "\\boxed{2}",
                                 "answer": "2"}])
    (here/file).write_text("my notes\n")
    assert main(command) == 2
    assert file in capsys.readouterr().err and (here/file).read_text() == "my notes\n"
    (here/file).unlink()
    assert main(command) == main(command) == 0  # its own file it may write again


@pytest.mark.parametrize("command", [["tables", "-o", "t.xyz"], ["inspect", "pairs.jsonl", "-o", "p.xyz"],
                                     ["connect4", "--n", "3", "-o", "c.xyz"]])
def test_an_unknown_ending_is_refused(here, capsys, command):
    write_jsonl("pairs.jsonl", [{"id": 1, "prompt": "q", "rejected": "a", "chosen": "b", "answer": "b"}])
    assert main(command) == 2
    assert ".xyz" in capsys.readouterr().err and not list(here.glob("*.xyz"))


@pytest.mark.parametrize("score, low, high", [(0., 0., 28.), (100., 72., 100.)])
def test_a_share_of_none_or_of_all_has_a_width(score, low, high):
    from spot_nb.evaluate import mean_interval
    got = [100*x for x in mean_interval([score/100]*10)]
    assert got[0] == pytest.approx(low, abs=.5) and got[1] == pytest.approx(high, abs=.5)


def test_a_result_is_shown_under_the_model_that_was_recorded(here, capsys):
    from spot_nb.evaluate import NINE
    result = lambda mean, **made: {"mean": mean, "std": 0., "interval": [mean, mean], "questions": 5,
                                   "trials": 1, "complete": True, "group": "in_domain", "provenance": made}
    write_json("r/aggregated_results.json",
               {"version": 1, "unit": "percent", "model": "tiny-135m", "missing": {}, "averages": {},
                "tasks": {k: result(10., limit=5, data="mine.jsonl 12ab") for k in NINE}})
    assert main(["tables", "--ours", "SPoT=r"]) == 0
    told = capsys.readouterr().out
    assert "tiny-135m" in told and "--limit 5" in told and "mine.jsonl" in told


@pytest.mark.parametrize("change, says", [
    ({"oracle": "openai", "oracle_args": {"model": "m"}}, "OPENAI_API_KEY"),
    ({"methods": [{"name": "S", "loss": "spot_bcoo"}]}, "spot_bco"),
    ({"methods": [{"name": "S", "loss": "spot_bco", "lerning_rate": 1e-5}]}, "learning_rate"),
    ({"train": {"num_train_epoch": 1}}, "num_train_epochs"),
    ({"model": "./no-such-model"}, "no-such-model"),
    ({"test_path": "gone.jsonl"}, "gone.jsonl"),
    ({"price": "cheap", "max_cost_usd": 1.0}, "price")])
def test_a_run_is_checked_before_anything_is_sampled(here, capsys, monkeypatch, change, says):
    import yaml
    monkeypatch.delenv("OPENAI_API_KEY")
    write_jsonl("problems.jsonl", [{"question": e["prompt"], "answer": e["answer"]} for e in ERRORS])
    settings = {"model": "embedded", "data_path": "problems.jsonl", "output_dir": "out", "n_test": 4,
                "n_train": 8, "oracle": "program", "oracle_args": {"program": "fix.py:right"}} | change
    (here/"fix.py").write_text("def right(record): return record['answer']\n")
    (here/"c.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", "--config", "c.yaml"]) == 2
    err = capsys.readouterr().err
    assert says in err and not list(here.rglob("all_results.jsonl")), err


def test_another_data_set_is_not_mixed_into_a_folder(here, server, capsys):
    def elicit(rows):
        write_jsonl("problems.jsonl", [{"question": e["prompt"], "answer": e["answer"]} for e in rows])
        return main(["elicit", "--model", "m", "--engine", "openai", "--base_url", server[0], "--data",
                     "problems.jsonl", "--output", "e", "--ignore_gold_check"])
    elicit(ERRORS[:5])
    n, kept = len(server[1]), (here/"e"/"all_results.jsonl").read_bytes()
    assert n == 5
    capsys.readouterr()
    assert elicit(ERRORS[6:]) == 2 and len(server[1]) == n
    assert "e" in capsys.readouterr().err and (here/"e"/"all_results.jsonl").read_bytes() == kept


def test_a_string_is_a_tokenizer_to_load():
    from spot_nb.models import load_tokenizer
    from spot_nb.pairs import filter_pairs
    pairs = [{"id": 1, "prompt": "q", "rejected": "So it is unquestionably \\boxed{1}", "chosen":
              "So it is unquestionably \\boxed{2}", "answer": "2"}]
    named, = filter_pairs(pairs, 1.0, "embedded")[0]
    given, = filter_pairs(pairs, 1.0, load_tokenizer("embedded"))[0]
    words, = filter_pairs(pairs, 1.0)[0]
    assert named["change_ratio"] == given["change_ratio"] != words["change_ratio"]
    for wrong in (3, object(), b"embedded"):
        with pytest.raises(Exception, match="tokenizer"): filter_pairs(pairs, 1.0, wrong)


def test_bad_settings_of_rectify_and_the_views_are_refused(here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)       # `char` is looked for nowhere
    from spot_nb.diff import Pair, report_html
    from spot_nb.rectify import load_errors, rectify
    right = lambda r: f"\\boxed{{{r['answer']}}}"
    for wrong in ({"limit": 0}, {"limit": -1}, {"target_correct": 0}, {"retry": ["rong"]}, {"workers": 0}):
        with pytest.raises(SpotError, match=next(iter(wrong)) if "retry" not in wrong else "verdict rong"):
            rectify(ERRORS, right, "a.jsonl", **wrong)
    assert rectify(ERRORS, right, "a.jsonl", retry="wrong")["errors"] == 12
    for wrong in (1, None, {"id": [1], "prompt": "p", "response": "r"}):
        with pytest.raises(SpotError, match="record 2"): load_errors([ERRORS[0], wrong])
    pair = {"prompt": "p", "rejected": "a b c", "chosen": "a b"}
    assert dict(Pair(pair).facts())["first edit"] == "word 3 of 3"
    assert dict(Pair(pair, "chars").facts())["first edit"] == "char 3 of 3"
    with pytest.raises(SpotError, match="char"): Pair(pair, "char").change_ratio
    with pytest.raises(SpotError, match="gamma"): report_html([pair], gamma=2)
