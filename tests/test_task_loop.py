"""Three tasks that are not mathematics, 20 problems each, from elicitation to the table, by commands alone on
the embedded student."""
import csv, json, re

import pytest
from conftest import ChatServer
from spot_nb.cli import main
from spot_nb.oracle import END, START
from spot_nb.records import read_json, read_jsonl, write_jsonl

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "Joy", "Kim", "Leo", "Mia", "Ned",
         "Ola", "Pia", "Quin", "Rob", "Sue", "Tom")
COLOURS = ("red", "blue", "green", "black")
JSON_ROWS = [{"question": f"{n} is {20 + i} years old. Give name and age.",
              "answer": {"name": n, "age": 20 + i},
              "schema": {"type": "object", "required": ["name", "age"],
                         "properties": {"age": {"type": "integer"}}}} for i, n in enumerate(NAMES)]
CHOICE_ROWS = [{"question": f"The sock of {n} is {COLOURS[i % 4]}. What colour is it?",
                "options": list(COLOURS), "answer": i % 4} for i, n in enumerate(NAMES)]
CODE_ROWS = [{"question":
              f"Write top_{i}(x), which returns the larger of x and {i} times 3, and 0 for an odd x.",
              "tests": [f"assert top_{i}({2*i}) == {3*i}", f"assert top_{i}(100) == 100",
                        f"assert top_{i}(7) == 0"]} for i in range(20)]
RIGHT = {"json": lambda r: r["answer"],
         "choice": lambda r: f"The sock has that colour.\nAnswer: {r['answer']}",
         "code": lambda r:
         "```python\ndef {0}(x):\n    return 0 if x % 2 else max(x, 3*{1})\n```".format(*re.search(
             r"(top_(\d+))", r["answer"]).groups())}
ROWS = {"json": JSON_ROWS, "choice": CHOICE_ROWS, "code": CODE_ROWS}
PROGRAM = """
import re
def right(record):
    kind, answer = record["task"]["name"], record["answer"]
    if kind == "json": return answer
    if kind == "choice": return f"The sock has that colour.\\nAnswer: {answer}"
    name, n = re.search(r"(top_(\\d+))", answer).groups()
    return f"```python\\ndef {name}(x):\\n    return 0 if x % 2 else max(x, 3*{n})\\n```"
"""


@pytest.fixture(scope="module")
def server():
    "Corrects by looking the prompt up in `right`."
    def reply(prompt): return f"{START}\n{next(v for k, v in s.right.items() if k in prompt)}\n{END}"
    with ChatServer(reply) as s:
        s.right = {}
        yield s


def run(capsys, *argv):
    "The command's output; it must succeed and end with what it wrote and what comes next."
    assert main([str(a) for a in argv]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    return out


@pytest.mark.parametrize("task", ["json", "choice", "code"])
def test_a_task_from_elicitation_to_its_table(task, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl("rows.jsonl", ROWS[task])
    (tmp_path/"fix.py").write_text(PROGRAM)

    out = run(capsys, "elicit", "--model", "embedded", "--data", "rows.jsonl", "--task", task, "--output",
              "elicit", "--max_tokens", 24, "--temperature", 0, "--batch_size", 20)
    assert "wrote elicit/errors.jsonl; next: spot rectify --data elicit/errors.jsonl" in out.splitlines()[-1]
    errors = read_jsonl("elicit/errors.jsonl")
    assert len(errors) >= 10 and all(e["task"]["name"] == task for e in errors)
    right = {e["id"]: RIGHT[task](e) for e in errors}

    run(capsys, "rectify", "--data", "elicit/errors.jsonl", "--oracle", "human", "--sheet", "sheet.csv",
        "--export")
    rows = list(csv.DictReader(open("sheet.csv", newline="")))
    for row in rows: row["correction"] = right[json.loads(row["id"])]
    with open("sheet.csv", "w", newline="") as f:
        w = csv.DictWriter(f, rows[0].keys())
        w.writeheader()
        w.writerows(rows)
    run(capsys, "rectify", "--data", "elicit/errors.jsonl", "--oracle", "human", "--sheet", "sheet.csv",
        "--output", "human.jsonl")

    run(capsys, "rectify", "--data", "elicit/errors.jsonl", "--oracle", "program", "--program",
        "fix.py:right", "--output", "program.jsonl")

    server.right = {e["prompt"]: right[e["id"]] for e in errors}
    run(capsys, "rectify", "--data", "elicit/errors.jsonl", "--oracle", "openai", "--oracle_model", "local",
        "--base_url", server.url, "--output", "raw.jsonl")
    assert ("boxed" not in server.asked[-1] and "final answer" not in server.asked[-1].lower()
            or task == "choice")
    for name in ("human", "program", "raw"):
        pairs = read_jsonl(f"{name}.jsonl")
        assert len(pairs) == len(errors) and all(p["verdict"] == "correct" and p["task"]["name"] == task
                                                 and "sampling" in p for p in pairs), name

    out = run(capsys, "filter", "--data", "raw.jsonl", "--model", "embedded", "--gamma", 1, "--output",
              "pairs.jsonl")
    assert "next: spot train --model embedded --data pairs.jsonl" in out.splitlines()[-1]
    assert len(read_jsonl("pairs.jsonl")) == len(errors)
    run(capsys, "inspect", "--data", "pairs.jsonl", "--output", "page.html")
    assert "spot-app" in (tmp_path/"page.html").read_text()

    out = run(capsys, "train", "--model", "embedded", "--data", "pairs.jsonl", "--output", "trained",
              "--max_pairs", 4, "--num_train_epochs", 1, "--use_cpu", "true", "--save_strategy", "no",
              "--report_to", "none", "--reference_cache", "reference", "--check_packing", "false")
    assert out.splitlines()[-1].startswith("wrote trained; next: spot evaluate --model trained")
    out = run(capsys, "evaluate", "--model", "trained", "--tasks", f"mine={tmp_path/'rows.jsonl'}", "--task",
              task, "--output", "results", "--trials", 1, "--max_tokens", 12, "--temperature", 0,
              "--batch_size", 20, "--engine", "transformers")
    assert "next: spot tables --ours NAME=results" in out.splitlines()[-1]
    found = read_json("results/aggregated_results.json")["tasks"]["mine"]
    assert (found["questions"] == 20 and found["group"] == "own"
            and found["provenance"]["task"]["name"] == task)
    out = run(capsys, "tables", "--ours", "SPoT=results")
    assert ("Your own tasks" in out and "mine" in out and "AIME" not in out
            and f"checked by task {task}" in out)


from test_pipeline import tiny                     # noqa: E402, F401, a random model of two layers


def test_run_takes_a_task(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_jsonl("rows.jsonl", JSON_ROWS)
    (tmp_path/"fix.py").write_text(PROGRAM.replace('record["task"]["name"]', '"json"'))
    (tmp_path/"mine.py").write_text("from spot_nb.tasks import json_task\ntask = json_task(name='mine')\n")
    (tmp_path/"run.yaml").write_text(f"""
output: run
model: {tiny}
data: rows.jsonl
task: mine.py
oracle: program
oracle_args: {{program: "fix.py:right"}}
n_train: 12
n_test: 8
max_tokens: 12
gamma: 1.0
train: {{num_train_epochs: 1, per_device_train_batch_size: 8, save_strategy: "no"}}
methods: [{{name: SPoT, loss: spot_bco, beta: "1", learning_rate: 1.0e-3}}]
""")
    run(capsys, "run", "--config", "run.yaml")
    pairs = read_jsonl("run/pairs.jsonl")
    assert len(pairs) == 12 and all(p["task"]["name"] == "mine"
                                    for p in pairs) and json.loads(pairs[0]["chosen"])["name"] in NAMES
    results = read_json("run/results.json")
    assert results["models"][1]["held_out"]["questions"] == 8
    scored = read_jsonl("run/measure/base/scores/held_out.jsonl")
    assert all(set(s["scores"]) == {0.0} for s in scored) and json.loads(scored[0]["answer"])["age"] >= 20
