"""Tables: the published figures are all there, averages follow, own rows land where they belong."""
import json

import pytest

from spot_nb.records import SpotError, write_json
from spot_nb.tables import averages, cli, load_scores, shown, table

SHOWN = ("1", "2", "3", "4", "7", "9", "12")


def numbers(node):
    return [x for v in (node.values() if isinstance(node, dict) else node)
            for x
            in (numbers(v) if isinstance(v, (dict, list)) else [v] if isinstance(v, (int, float)) else [])]

def test_figures_equal_the_source(published):
    from spot_nb.tables import published as ours
    data = ours()["tables"]
    names = {"1": "table1_main", "2": "table2_losses_Qwen3-8B", "3": "table3_data_Qwen3-8B",
             "4": "table4_grpo_Qwen3-8B", "6": "table6_prompt_2k", "7": "table7_threshold_from_6171_errors",
             "9": "table9_std_Qwen3-8B", "10": "table10_general", "11": "table11_dpo_sft_2k",
             "12": "table12_Qwen3-1.7B"}
    for n, key in names.items(): assert numbers(data[n]["rows"]) == numbers(published[key]), n
    assert data["1"]["rows"] == published["table1_main"]

@pytest.mark.parametrize("n", SHOWN)
def test_every_format_shows_every_figure(n):
    t = table(n)
    frame, md, tex, html = t.frame(), t.markdown(), t.latex(), t.html()
    assert frame.shape == (len(t.rows), len(t.columns))
    for row in t.rows:
        for c in t.columns:
            v = t.value(row, c)
            if v is not None: assert all(shown(v) in text for text in (md, tex, html))
    assert (md.count("\n| ") == len(t.rows) + 2 and html.count("<tr") == len(t.rows) + 1
            and tex.count(r"\\") == len(t.rows) + 1)
    assert "arXiv:2603.01683" in md

def test_averages_are_computed():
    t = table(1)
    spot = next(r for r in t.rows if r.method == "SPoT" and r.model == "Qwen3-8B")
    assert round(t.value(spot, "avg:overall"), 1) == 53.3 and round(t.delta(spot, "avg:in_domain"),
                                                                    1) == 5.3 and t.best(spot, "avg:overall")
    assert averages({})["overall"] is None and averages({"custom|ifeval_no_thinking|0|0":
                                                         80.0})["ifeval"] == 80

@pytest.mark.parametrize("content, message",
                         [({"version": 7, "tasks": {}}, "version 7"), ([], "no results"),
                          ({"aime24": 0.3, "amc23": 0.6}, "fractions"),
                          ({"aime24": 120}, "between 0 and 100"),
                          ({"version": 1, "tasks": {"aime24": 12.3}}, r"r\.json: task aime24 is 12\.3"),
                          ({"version": 1, "tasks": [1]}, r"r\.json holds no results"),
                          ({"version": 1, "tasks": {"amc23": {"mean": 1.0}, "aime24": 0}},
                           "task aime24 is 0")])
def test_bad_results_are_named(tmp_path, content, message):
    path = tmp_path/"r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SpotError, match=message): load_scores(path)

def test_a_limited_run_is_noted_under_the_table():
    ours = {"version": 1,
            "tasks": {"aime24": {"mean": 30.0, "complete": True, "provenance": {"limit": 3}},
                      "amc23": {"mean": 40.0, "provenance": {}}, "minerva": None}}
    for text in (table(1, {"SPoT": ours}).markdown(), table(1, {"SPoT": ours}).html()):
        assert text.count("--limit 3") == 1 and "AIME24 was evaluated with --limit 3" in text

def test_command(tmp_path, capsys):
    assert cli(["1", "7", "-o", str(tmp_path/"t.html"), "--ours", f"SPoT={_results(tmp_path)}"]) == 0
    page = (tmp_path/"t.html").read_text()
    assert page.count("(ours)") == 2 and page.startswith("<!doctype html>")
    assert cli(["12"]) == 0 and "14.7" in capsys.readouterr().out
    assert cli(["all", "--format", "csv"]) == 0
    for argv, message in ((["13"], "no table 13"), (["1", "--ours", "x"], "NAME=PATH"),
                          (["1", "--ours", f"SPoT={tmp_path}/none"], "does not exist")):
        with pytest.raises(SpotError, match=message): cli(argv)

def _results(folder):
    path = folder/"aggregated_results.json"
    path.write_text(json.dumps({"version": 1, "tasks": {"aime24": {"mean": 30.0, "std": 1.5}}}))
    return path

def test_a_weak_model_is_no_fraction(tmp_path):
    "A results file is in percent, however low; only scores typed by hand may be fractions."
    weak = {"version": 1, "model": "weak", "tasks": {k: {"mean": 0.5, "provenance": {"data": "file x.jsonl"}}
                                                     for k in ("aime24", "amc23", "minerva")}}
    write_json(tmp_path/"aggregated_results.json", weak)
    for source in (weak, str(tmp_path)): assert "0.5" in table(1, {"SPoT": source}).markdown()
    with pytest.raises(SpotError, match="fractions"): table(1, {"SPoT": {"aime24": 0.5, "amc23": 0.5}})
