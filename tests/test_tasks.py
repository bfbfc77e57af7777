"""Tasks: reading, checking, finding; each kind with several inputs, and the ways in which a check
goes wrong."""
import json, subprocess, sys, time
from pathlib import Path

import pytest
from spot_nb.cli import main
from spot_nb.elicit import elicit, load_problems
from spot_nb.generate import Completion, Generator, Sampling
from spot_nb.oracle import (END, START, Reply, build_messages, load_program, oracle_prompts, prompt_hash,
                            with_prompt)
from spot_nb.pairs import filter_pairs
from spot_nb.records import SpotError, read_json, read_jsonl, write_jsonl
from spot_nb.rectify import assess, rectify
from spot_nb.tasks import (BUILT_IN, MATH, Task, check_code, choice_task, chosen_letter, find_task,
                           judge_task, make_problem, task_for, task_hash, try_check)


class Says(Generator):
    "Answers each prompt with what a function makes of it."
    def __init__(self, say): self.say = say
    def info(self): return {"model": "says", "engine": "says"}
    def stream(self, prompts, sampling=None):
        for i, p in enumerate(prompts):
            yield i, [Completion(self.say(p if isinstance(p, str) else p[-1]["content"]), "stop",
                                 5)]*(sampling.n if sampling else 1)


# ---- choice
@pytest.mark.parametrize("row, message",
                         [({"options": ["a", "b"], "answer": "z"}, "neither"),
                          ({"options": ["a", "b"]}, "no answer"), ({"answer": "A"}, "no options"),
                          ({"options": [str(i) for i in range(30)], "answer": "3"}, "26 letters"),
                          ({"options": "a, b", "answer": "a"}, "list of texts")])
def test_choice_rows_that_cannot_be(row, message):
    with pytest.raises(SpotError, match=message):
        make_problem(choice_task(), {"question": "?", **row}, "f.jsonl, record 2")


# ---- code
ADD = {"id": 1, "answer": json.dumps(["assert add(1, 2) == 3", "assert add(-1, 1) == 0"])}

@pytest.mark.parametrize("body, reason",
                         [("return a + b", "match"), ("return a - b", "test failed"),
                          ("return a +", "syntax error"), ("return c", "exception: NameError"),
                          ("raise SystemExit(0)", "exception: SystemExit"),
                          ("import os; os._exit(0)", "ended early"),
                          ("import os; os.kill(os.getpid(), 9)", "exception: PermissionError"),
                          ("while True: pass", "too slow"), ("return [0]*10**10", "out of memory"),
                          ("import os; os.system('true')", "exception: PermissionError"),
                          ("import subprocess; subprocess.run(['true'])", "exception: PermissionError"),
                          ("import os; os.fork()", "exception: PermissionError"),
                          ("import socket; socket.create_connection(('127.0.0.1', 9))",
                           "exception: PermissionError"),
                          ("open('/tmp/spot_was_here', 'w')", "exception: PermissionError"),
                          ("return input()", "exception: EOFError")])
def test_code(body, reason):
    ok, read, why = check_code(f"```python\ndef add(a, b):\n    {body}\n```", ADD,
                               seconds=8.0 if reason != "too slow" else 1.0)
    assert (ok, why) == (reason == "match", reason) and "def add" in read
    assert not Path("/tmp/spot_was_here").exists()


# ---- rows to problems
def test_load_problems_by_task_keeps_every_language(tmp_path):
    rows = [{"question": "¿Cuántos años tiene Ada? 三十", "answer": {"age": 30}},
            {"question": "求年龄", "answer": {"age": 3}}, {"question": "求年龄", "answer": {"age": 3}}]
    problems, stats = load_problems(rows, task="json")
    assert (stats["problems"] == 2 and stats["duplicates"] == 1 and stats["other_language"] == 0
            and problems[0]["task"] == {"name": "json", "hash": task_hash(find_task("json"))})
    again, _ = load_problems(problems, task="json")
    assert again == problems  # a file that a stage wrote can be read again
    with pytest.raises(SpotError, match="record 2"): load_problems([rows[0], {"answer": 1}], task="json")


# ---- checks that go wrong
def test_a_check_that_hangs_or_raises():
    def endless(r, p):
        while r: pass
        return False
    start = time.monotonic()
    assert judge_task(Task("t", endless, timeout=0.2), "x",
                      {"id": 1}).reason == "timeout" and time.monotonic() - start < 20
    v = judge_task(Task("t", lambda r, p: p["missing"]), "x", {"id": 1})
    assert (v.correct, v.reason) == (False, "check failed") and "KeyError" in v.extracted
    with pytest.raises(SpotError, match="problem 'p9'.*KeyError"):
        try_check(Task("t", lambda r, p: p["missing"]), [{"id": "p9"}])
    with pytest.warns(UserWarning, match="accepts an empty"):
        try_check(Task("t", lambda r, p: True), [{"id": 1}])


def test_isolated_checks_survive_what_kills_a_process(tmp_path):
    (tmp_path/"odd.py").write_text("""
import os, re, time
from spot_nb.tasks import Task
def check(response, problem):
    print("noise on standard output")
    if response == "die": os._exit(3)
    if response == "hang": re.fullmatch(r"(a+)+b", "a"*80)
    if response == "raise": raise ValueError("no")
    return response == problem["answer"], response, "mismatch"
task = Task("odd", check, isolate=True, timeout=2.0)
""")
    t, p = find_task(tmp_path/"odd.py"), {"id": 1, "answer": "é\n"}
    assert judge_task(t, "é\n", p).correct
    assert ([judge_task(t, r, p).reason for r in ("x", "raise", "die", "hang", "x")]
            == ["mismatch", "check failed", "check failed", "timeout", "mismatch"])
    # nothing to load in the other process
    assert judge_task(Task("t", lambda r, p: True, isolate=True), "x", p).reason == "check failed"


# ---- finding
def test_installed_tasks(tmp_path, monkeypatch, capsys):
    (tmp_path/"my_plug_in.py").write_text("from spot_nb.tasks import Task\ntask = Task('shout', lambda r, "
                                          "p: r.isupper())\ndef made(): return task\nwrong = 5\n")
    info = tmp_path/"my_plug_in-1.0.dist-info"
    info.mkdir()
    (info/"METADATA").write_text("Metadata-Version: 2.1\nName: my-plug-in\nVersion: 1.0\n")
    (info/"entry_points.txt").write_text("[spot_nb.tasks]\nshout = my_plug_in:task\nmade = "
                                         "my_plug_in:made\nwrong = my_plug_in:wrong\ngone = "
                                         "my_plug_in:gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert judge_task(find_task("shout"), "HEY", {"id": 1}).correct and find_task("made").name == "shout"
    for name in ("wrong", "gone"):
        with pytest.raises(SpotError, match=f"installed task '{name}'"): find_task(name)
    assert main(["new", "--list"]) == 0 and "my_plug_in:task" in capsys.readouterr().out
    assert task_for([{"task": {"name": "shout", "hash": "x"}}]).name == "shout"


# ---- what an Oracle is told
def test_no_sentence_of_mathematics_reaches_another_task():
    record = {"id": 1, "prompt": "Q", "response": "R", "answer": "A"}
    for t in BUILT_IN.values():
        for mode in oracle_prompts(t):
            text = build_messages(record, mode, [("reply", "why")], t)[0]["content"]
            assert t.oracle_format in text and (t is MATH
                                                or not any(w in text.lower() for w in ("boxed", "math")))
            assert t.steps or not any(w in text
                                      for w in ("step by step", "final answer", "first step", "notation"))
    assert len({prompt_hash(m, t) for t in BUILT_IN.values() for m in oracle_prompts(t)}) == 5*len(BUILT_IN)


def test_own_prompts_by_file(tmp_path):
    (tmp_path/"p.txt").write_text('Fix {"a": {x}}: {question}|{response}|{format}|{start} {end}')
    t = with_prompt("json", "without_answer", tmp_path/"p.txt")
    text = build_messages({"id": 1, "prompt": "Q{response}", "response": "R{start}", "answer": "A"},
                          task=t)[0]["content"]
    assert text == f'Fix {{"a": {{x}}}}: Q{{response}}|R{{start}}|{t.oracle_format}|{START} {END}'
    for bad, message in (("{question}", "does not show"),
                         ("{question}{respons}{start}{end}", "did you mean")):
        (tmp_path/"p.txt").write_text(bad)
        with pytest.raises(SpotError, match=message): with_prompt("json", "without_answer", tmp_path/"p.txt")
    with pytest.raises(SpotError, match="cannot be read"): with_prompt("json", "direct", tmp_path/"none.txt")


def test_assess_by_the_task():
    record = {"id": 1, "prompt": "Q", "response": '```json\n{"a": 2}\n```', "answer": '{"a": 1}'}
    good = assess(record, Reply(f'{START}\n```json\n{{"a": 1}}\n```\n{END}'), task="json")
    # the student's own fence stays
    assert good["verdict"] == "correct" and good["chosen"].startswith("```json")
    assert assess({**record, "response": '{"a": 2}'}, Reply(f'{START}\n```json\n{{"a": 1}}\n```\n{END}'),
                  task="json")["chosen"] == '{"a": 1}'
    wrong = assess(record, Reply(f'{START}\n{{"a": 3}}\n{END}'), task="json")
    assert (wrong["verdict"], wrong["reason"]) == ("wrong", "differs at $.a")
    sorry = {"id": 2, "prompt": "Q", "response": "x", "answer": "I'm sorry, I can't."}
    assert assess(sorry, Reply("I'm sorry, I can't."), "direct", "exact")["verdict"] == "correct"
    assert assess({"id": 1, "prompt": "Q", "response": "x", "answer": None, "schema": {"type": "array"}},
                  Reply(f"{START}\n[1]\n{END}"), task="json")["verdict"] == "correct"


def test_modules_of_the_current_folder_come_first(tmp_path, monkeypatch):
    for folder in ("first", "second"):
        (tmp_path/folder).mkdir()
        (tmp_path/folder/"file_of_theirs.py").write_text(f"def where(record): return {folder!r}\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path/"first")
    assert load_program("file_of_theirs.py:where")({}) == "first"
    monkeypatch.chdir(tmp_path/"second")
    assert load_program("file_of_theirs:where")({}) == "second"
    assert sys.path[-2:] == [str(tmp_path/"first"), str(tmp_path/"second")]


def test_a_failing_program_names_its_record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"fix.py").write_text("def only(record):\n    return record['nothing']\n")
    write_jsonl("errors.jsonl", [{"id": "r-7", "prompt": "Q", "response": "x", "answer": "1"}])
    for spec in ("fix.py:only", "fix.py", "fix:only"):
        assert main(["rectify", "--data", "errors.jsonl", "--oracle", "program", "--program", spec,
                     "--output", "o.jsonl"]) == 2
        err = capsys.readouterr().err
        assert "record 'r-7'" in err and "KeyError" in err and "fix.py, line 2" in err
    for spec, message in (("fix.py:other", "it has only"), ("gone.py:f", "no file gone.py"),
                          ("x", "file.py:function")):
        assert main(["rectify", "--data", "errors.jsonl", "--oracle", "program", "--program", spec,
                     "--output", "o.jsonl"]) == 2
        assert message in capsys.readouterr().err


# ---- stages in Python
def test_stages_check_by_the_task_and_carry_it(tmp_path):
    rows = [{"question": f"Ada is {i}.", "answer": {"age": i}, "schema": {"type": "object"}}
            for i in range(6)]
    problems, _ = load_problems(rows, task="json")
    s = elicit(problems, Says(lambda p: '{"age": 0}'), tmp_path/"e",
               Sampling(max_tokens=9, enable_thinking=False), task="json")
    assert (s["correct"], s["errors"]) == (1, 5) and "<table" in s._repr_html_()
    errors = read_jsonl(tmp_path/"e"/"errors.jsonl")
    r = rectify(tmp_path/"e"/"errors.jsonl", lambda record: record["answer"], tmp_path/"raw.jsonl")
    assert r["verdicts"] == {"correct": 5}
    pair = read_jsonl(tmp_path/"raw.jsonl")[0]
    assert (pair["task"] == errors[0]["task"] and pair["sampling"]["enable_thinking"] is False
            and pair["schema"] == {"type": "object"})
    kept, dropped = filter_pairs(read_jsonl(tmp_path/"raw.jsonl"), gamma=1.0)
    assert len(kept) == 5 and kept[0]["task"]["name"] == "json"
    broken = [{**pair, "chosen": "{"}]
    assert filter_pairs(broken, gamma=1.0)[1][0]["reason"] == "unverified"
    with pytest.raises(SpotError, match="belong to task 'json'"): filter_pairs(kept, task="choice")


def test_a_changed_check_judges_again_without_asking_again(tmp_path):
    source = "from spot_nb.tasks import Task\ntask = Task('v', lambda r, p: (r == p['answer']{}, r))\n"
    (tmp_path/"v.py").write_text(source.format(""))
    asked = []
    student = Says(lambda p: asked.append(p) or "YES")
    rows = [{"id": i, "prompt": f"q{i}", "answer": "yes" if i else "YES"} for i in range(4)]
    t = find_task(tmp_path/"v.py")
    assert elicit(load_problems(rows, task=t)[0], student, tmp_path/"e", task=t)["correct"] == 1
    (tmp_path/"v.py").write_text(source.format(" or r.lower() == p['answer']"))
    t = find_task(tmp_path/"v.py")
    s = elicit(load_problems(rows, task=t)[0], student, tmp_path/"e", task=t)
    assert (s["correct"], s["judged_again"], len(asked), s["sampled_now"]) == (4, 3, 4, 0)
    with pytest.raises(SpotError, match="task differ"):
        elicit(load_problems(rows, task="exact")[0], student, tmp_path/"e", task="exact")


def test_a_check_that_failed_is_tried_again(tmp_path):
    state = {"broken": True}
    def check(r, p):
        if r and state["broken"]: raise RuntimeError("not now")
        return r == p["answer"], r
    t, student = Task("flaky", check), Says(lambda p: "a")
    problems = load_problems([{"id": i, "prompt": f"q{i}", "answer": "a"} for i in range(3)], task=t)[0]
    s = elicit(problems, student, tmp_path/"e", task=t)
    assert s["reasons"] == {"check failed": 3} and s["errors"] == 0 and s["accuracy"] is None
    state["broken"] = False
    assert elicit(problems, student, tmp_path/"e", task=t)["correct"] == 3


# ---- evaluation and its table
def test_own_rows_are_evaluated_and_have_their_own_table(tmp_path, capsys):
    from spot_nb.evaluate import evaluate
    from spot_nb.tables import own_table, table
    write_jsonl(tmp_path/"t.jsonl", [{"question": f"Ada is {i}.", "answer": {"age": i}} for i in range(8)])
    for name, say in (("base", '{"age": 0}'), ("SPoT", '{"age": 3}')):
        model = Says(lambda p: say)
        out = evaluate(model, [f"mine={tmp_path/'t.jsonl'}"], tmp_path/name, task="json", trials=2,
                       report=lambda *a: None)
        assert (out["tasks"]["mine"]["mean"] == 12.5 and out["tasks"]["mine"]["group"] == "own"
                and "<table" in out._repr_html_())
    ours = {n: str(tmp_path/n) for n in ("base", "SPoT")}
    t = own_table(ours)
    assert ([r.method for r in t.rows] == ["base", "SPoT"] and t.columns == ["mine"]
            and t.delta(t.rows[1], "mine") == 0 and "8 questions × 2" in t.markdown())
    assert len({r.model for r in t.rows}) == 1 and t.rows[0].model       # the model's name, as recorded
    assert "mine" not in table(1, ours).columns and own_table({"x": {"aime24": 3.0}}) is None
    assert main(["tables", *(x for n in ours for x in ("--ours", f"{n}={ours[n]}"))]) == 0
    shown = capsys.readouterr().out
    assert "Your own tasks" in shown and "Table 1" not in shown
    write_jsonl(tmp_path/"bad.jsonl", [{"question": "Q", "answer": 1}, {"id": "r2", "question": "R"}])
    for argv, message in ((["--tasks", "aime24=x.jsonl"], "another name"),
                          (["--task", "json"], "rows of your own"),
                          (["--data", str(tmp_path/"gone.jsonl")], "does not exist"),
                          (["--data", str(tmp_path/"bad.jsonl"), "--task", "json"],
                           "row 2: task json, problem 'r2': its check failed (a row of task json needs")):
        assert main(["evaluate", "embedded", *argv, "--output", str(tmp_path/"o")]) == 2
        assert message in capsys.readouterr().err


# ---- the letter of a choice
OPTIONS_OF = ["red", "blue", "green", "a light grey"]
OPTIONS = "A. red\nB. blue\nC. green\nD. a light grey"
@pytest.mark.parametrize("text, letter", [
    ("B", "B"), ("b", "B"), ("(b)", "B"), ("`C`", "C"), ("Option C", "C"), ("Answer: option c", "C"),
    ("Answer: [D]", "D"), ("<answer>B</answer>", "B"), ("The correct choice is B because A and C fail.", "B"),
    ("blue", "B"), ("The answer is blue.", "B"), ("Answer: Green", "C"), ("Answer: A light grey", "D"),
    ("Answer: B. blue", "B"), ("Answer: B (blue)", "B"), ("A is wrong, so the answer is (C).", "C"),
    ("答案：B", "B"), ("La respuesta es B", "B"), ("**Final answer:** $\\text{D}$", "D"),
    ("Answer: A\n\nWait, that is wrong.\n\nAnswer: B", "B"),
    ("Answer: B or C", None), ("B or C", None), ("Answer: B, C", None), ("Answer: A and D", None),
    ("Answer: A/B", None), ("\\boxed{A \\text{ or } B}", None), ("Answer: B. red", None), ("Answer: E", None),
    ("The answer is not B", None), ("None of them", None), ("A good guess", None), ("Answer: a guess", None),
    ("The answer is a light one", None), ("I would say so", None), ("Answer: black", None), ("", None)])
def test_a_choice_is_one_letter(text, letter):
    assert chosen_letter(text, "ABCD", OPTIONS) == letter
    row = make_problem(BUILT_IN["choice"], {"question": "?", "options": OPTIONS_OF, "answer": "B"}, "row")
    assert judge_task(BUILT_IN["choice"], text, row).correct == (letter == "B")


# ---- a new task
@pytest.mark.parametrize("name", ["my_task", "colour2"])
def test_a_new_task_works_as_written(name, tmp_path, capsys):
    assert main(["new", "task", name, "--output", str(tmp_path)]) == 0
    assert f"wrote {tmp_path/name}.py" in capsys.readouterr().out
    assert len(read_jsonl(tmp_path/f"{name}.jsonl")) == 10
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{name}.py"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    problems, stats = load_problems(str(tmp_path/f"{name}.jsonl"), task=str(tmp_path/f"{name}.py"))
    assert stats["problems"] == 10 and problems[0]["task"]["name"] == name
    assert main(["new", "task", name, "--output", str(tmp_path)]) == 2 and "exists" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message",
                         [(["task"], "spot new task NAME"), (["task", "my-task"], "Python name"),
                          (["task", "class"], "Python name"), (["task", "json"], "built-in"),
                          (["tsk", "x"], "task")])
def test_new_tasks_that_cannot_be(argv, message, tmp_path, capsys):
    assert main(["new", *argv, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_tutorial_is_short_and_was_run():
    cells = [c for c in read_json(Path(__file__).parents[1]/"nbs"/"19_own_task.ipynb")["cells"]
             if c["cell_type"] == "code"]
    shown = [c for c in cells if "#| hide" not in "".join(c["source"])]
    lines = [l for c in shown for l in "".join(c["source"]).splitlines() if l.strip()]
    said = "".join(t for c in shown for o in c["outputs"] for t in o.get("text", []))
    assert 10 <= len(lines) < 30 and all(f'spot("{w} ' in "\n".join(lines)
                                         for w in ("elicit", "rectify", "filter", "inspect", "train",
                                                   "tables")) and 'spot(f"evaluate ' in "\n".join(lines)
    assert "Your own tasks" in said and "checked by task json" in said
