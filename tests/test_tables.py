"""Tables: the published figures are all there, averages follow, own rows land where they belong."""
import json, math

import pytest

from spot_nb.records import SpotError, write_json
from spot_nb.tables import averages, check_averages, cli, load_scores, plot_trade, published, shown, table

SHOWN = ("1", "2", "3", "4", "7", "9", "12")


def test_every_printed_average_follows():
    assert len(check_averages()) == 40 and all(c["follows"] for c in check_averages(0.1))
    assert [shown(c["computed"]) for c in check_averages()] == [f"{c['printed']:.1f}"
                                                                for c in check_averages()]

def test_a_wrong_average_would_be_caught(monkeypatch):
    data = json.loads(json.dumps(published()))
    data["tables"]["1"]["rows"]["Qwen3-8B"]["SPoT"]["ifeval"] += 2
    monkeypatch.setattr("spot_nb.tables.published", lambda: data)
    assert [c["group"] for c in check_averages() if not c["follows"]] == ["ifeval", "overall"]

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

def test_deviations_in_table_nine():
    assert "28.0 ± 1.1" in table(9).markdown() and r"28.0 $\pm$ 1.1" in table(9).latex().replace(
        r"\textbf{28.0}", "28.0")

def test_own_rows(tmp_path):
    path = tmp_path/"aggregated_results.json"
    path.write_text(json.dumps({"version": 1,
                                "tasks": {"aime24": {"mean": 30.0, "std": 1.5, "complete": True},
                                          "connect4": {"mean": 20.0, "std": None, "complete": False}}}))
    t = table(1, {"SPoT": tmp_path, "Llama-3.1-8B-Instruct/SFT": {"custom|gpqa:diamond|0|0": 31.0},
                  "new method": {"aime24": 10.0}, "Mine-7B/base": {"aime24": 5}})
    ours = {(r.model, r.method): r for r in t.rows if r.ours}
    assert set(ours) == {("Qwen3-8B", "SPoT"), ("Llama-3.1-8B-Instruct", "SFT"), ("Qwen3-8B", "new method"),
                         ("Mine-7B", "base")}
    assert t.delta(ours["Qwen3-8B", "SPoT"],
                   "aime24") == 2.0 and round(t.delta(ours["Qwen3-8B", "new method"], "aime24"), 6) == -12.0
    assert t.delta(ours["Mine-7B", "base"], "aime24") is None
    assert "▲+2.0" in t.markdown() and "**30.0** ± 1.5" in t.markdown() and "not complete" in t.markdown()

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

def test_nan_is_named_and_left_out():
    scores, _, notes = load_scores({"aime24": math.nan, "amc23": 50.0})
    assert scores == {"amc23": 50.0} and "AIME24 has no score" in notes[0]

def test_a_limited_run_is_noted_under_the_table():
    ours = {"version": 1,
            "tasks": {"aime24": {"mean": 30.0, "complete": True, "provenance": {"limit": 3}},
                      "amc23": {"mean": 40.0, "provenance": {}}, "minerva": None}}
    for text in (table(1, {"SPoT": ours}).markdown(), table(1, {"SPoT": ours}).html()):
        assert text.count("--limit 3") == 1 and "AIME24 was evaluated with --limit 3" in text

def test_latex_is_escaped():
    tex = table(3, {"100% & _x": {"aime24": 1.0}}).latex()
    assert r"100\% \& \_x" in tex

def test_html_is_escaped(): assert "<b>x</b>" not in table(1, {"<b>x</b>": {"aime24": 1.0}}).html()

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

def test_picture():
    import matplotlib
    matplotlib.use("agg")
    ax = plot_trade("Qwen3-8B", {"SPoT": published()["tables"]["1"]["rows"]["Qwen3-8B"]["RFT"]})
    assert sorted(t.get_text() for t in ax.texts) == ["RFT", "SFT", "SFT+", "SPoT", "SPoT (ours)"]
    with pytest.raises(SpotError, match="no model"): plot_trade("GPT")


def test_a_weak_model_is_no_fraction(tmp_path):
    "A results file is in percent, however low; only scores typed by hand may be fractions."
    weak = {"version": 1, "model": "weak", "tasks": {k: {"mean": 0.5, "provenance": {"data": "file x.jsonl"}}
                                                     for k in ("aime24", "amc23", "minerva")}}
    write_json(tmp_path/"aggregated_results.json", weak)
    for source in (weak, str(tmp_path)): assert "0.5" in table(1, {"SPoT": source}).markdown()
    with pytest.raises(SpotError, match="fractions"): table(1, {"SPoT": {"aime24": 0.5, "amc23": 0.5}})
