"""Every form of data through filter, train and export, against the tokenizer's own `apply_chat_template`,
under several templates."""
import json
from types import SimpleNamespace

import pytest

from spot_nb import models as M
from spot_nb.conversations import parse_sample
from spot_nb.examples import check_vocabulary, tokenize_pairs
from spot_nb.pairs import export_pairs, filter_pairs, load_pairs, load_samples
from spot_nb.records import SpotError, write_jsonl

CHATML = """{%- if tools %}<|im_start|>system
# Tools
{%- for t in tools %}
{{ t | tojson }}{% endfor %}<|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.tool_calls is defined %}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson \
}}</tool_call>{% endfor %}{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
DATED = """{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{% endif \
%}<|im_start|>system
Today Date: {{ date_string }}{% if messages[0].role == "system" %}
{{ messages[0].content | trim }}{% endif %}<|im_end|>{% for m in messages %}{% if m.role != "system" \
%}<|im_start|>{{ m.role }}

{{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant

{% endif %}"""
STRICT = """{%- if messages[0].role == "system" %}{{ raise_exception("System role not supported") }}{% endif \
%}{% for m in messages %}
{%- if (m.role == "user") != (loop.index0 % 2 == 0) %}{{ raise_exception("Conversation roles must \
alternate") }}{% endif %}<start>{{ "model" if m.role == "assistant" else m.role }}
{{ m.content | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<start>model
{% endif %}"""
INST = """{%- for m in messages %}{% if m.role == "user" %}[INST] {{ m.content }} [/INST]{% elif m.role == "assistant" %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"""
TEMPLATES = {"chatml": CHATML, "dated": DATED, "strict": STRICT, "inst": INST}


def tokenizer(template=CHATML, eos="<|im_end|>", normalizer=None):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if normalizer: tok.normalizer = normalizer
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=eos, pad_token="<|pad|>",
                                   additional_special_tokens=["<|im_start|>", "<|im_end|>"] if eos else [])
    fast.chat_template = template
    return fast


def config(**more):
    return SimpleNamespace(**{"loss": "spot_bco", "max_length": 8192, "overlong": "drop",
                              "enable_thinking": None} | more)
def user(t): return {"role": "user", "content": t}
def said(t): return {"role": "assistant", "content": t}


PROMPT = [user("one?"), said("1"), user("two?")]
TOOLS = [{"type": "function",
          "function": {"name": "add", "description": "sum",
                       "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}]
CALL = {"role": "assistant", "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}
CALLED = [user("add"), CALL, {"role": "tool", "content": "2", "name": "add"}]
FORMS = {  # the row in the file, and the prompt, tools that it means
    "strings": (dict(prompt="two?", chosen="2", rejected="3"), [user("two?")], None),
    "explicit": (dict(prompt=PROMPT, chosen=[said("2")], rejected=[said("3")]), PROMPT, None),
    "implicit": (dict(chosen=PROMPT + [said("2")], rejected=PROMPT + [said("3")]), PROMPT, None),
    "whole conversations beside the prompt": (dict(prompt="two?", chosen=[user("two?"), said("2")], rejected=[user("two?"), said("3")]), [user("two?")], None),
    "paper": (dict(question="two?", gemini_corrected_answer="2", original_answer="3"), [user("two?")], None),
    "tools": (dict(prompt=CALLED, chosen=[said("2")], rejected=[said("3")], tools=TOOLS), CALLED, TOOLS),
    "implicit with tools": (dict(chosen=CALLED + [said("2")], rejected=CALLED + [said("3")], tools=TOOLS), CALLED, TOOLS),
    "tools as JSON text": (dict(prompt="two?", chosen="2", rejected="3", tools=json.dumps(TOOLS)), [user("two?")], TOOLS),
    "None": (dict(prompt=[{**user("two?"), "name": None, "tool_calls": None}], chosen=[{**said("2"), "tool_calls": None}], rejected=[said("3")], tools=None), [user("two?")], None),
    "parts": (dict(prompt=[{"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "?"}]}], chosen="2", rejected="3"), [user("two?")], None),
}


def write(path, rows):
    import pandas as pd
    if path.suffix == ".jsonl": write_jsonl(path, rows)
    elif path.suffix == ".json": path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet": pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame([{k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()}
                      for r in rows]).to_csv(path, index=False)
    return path


ROWS = {
    "math": dict(question="1 + 1?", answer="2"),
    "json": dict(question="Due: 5", answer={"due": 5}),
    "exact": dict(question="Say hi.", answer="hi"),
    "choice": dict(question="Which?", choices=["x", "y"], answer="B"),
    "tool": dict(question="Add.", tools=TOOLS, answer={"name": "add", "arguments": {"a": 1}}),
}


class Heard:
    "A student that says one thing, and remembers the ids that it was given."
    def __init__(self, tok, reply): self.tokenizer, self.reply, self.ids = tok, reply, []
    def info(self): return {"engine": "fake", "model": "m"}
    def stream(self, prompts, sampling):
        from spot_nb.generate import _prompt_ids
        for i, p in enumerate(prompts):
            self.ids.append(_prompt_ids(self.tokenizer, p, sampling))
            yield i, [self.reply]


@pytest.mark.parametrize("thinking", [None, False])
@pytest.mark.parametrize("ending", ["stop", "length"])
@pytest.mark.parametrize("task", ROWS)
def test_training_reads_what_was_sampled(tmp_path, task, ending, thinking):
    """From elicitation to the trainer's tokens, and through TRL's form: the prompt's ids are those that were
    sampled from, and a response cut by length gets no end."""
    from spot_nb.elicit import elicit, load_problems
    from spot_nb.generate import Completion, Sampling
    from spot_nb.oracle import ProgramOracle
    from spot_nb.rectify import rectify
    from spot_nb.records import read_jsonl
    from spot_nb.tasks import find_task
    tok, said_by = tokenizer(), Completion("no idea {", ending, 9)
    write_jsonl(tmp_path/"rows.jsonl", [{"id": 0, **ROWS[task]}])
    problems, student = load_problems(str(tmp_path/"rows.jsonl"), task=task)[0], Heard(tok, said_by)
    elicit(problems, student, tmp_path/"e", Sampling(enable_thinking=thinking), task=task)
    errors = read_jsonl(tmp_path/"e"/"errors.jsonl")
    right = lambda r: f"\\boxed{{{r['answer']}}}" if task in ("math", "choice") else str(r["answer"])
    rectify(errors, ProgramOracle(right), tmp_path/"raw.jsonl", task=find_task(task))
    kept, dropped = filter_pairs(load_pairs(tmp_path/"raw.jsonl"), gamma=1., tokenizer=tok)
    assert not dropped and kept[0]["n_prompt"] == len(student.ids[0])
    for name in ("pairs.jsonl", "out.jsonl", "out.parquet"):
        if name == "pairs.jsonl": path = write_jsonl(tmp_path/name, kept)
        else: path = export_pairs(kept, tmp_path/name)
        (e,), _ = tokenize_pairs(load_pairs(path), tok, config())
        assert e.prompt == student.ids[0], name
        assert tok.decode(e.rejected) == "no idea {" + ("<|im_end|>" if ending == "stop" else ""), name
        assert tok.decode(e.chosen).endswith("<|im_end|>")


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet", ".csv"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_through_filter_train_and_export(tmp_path, form, kind):
    row, prompt, tools = FORMS[form]
    tok = tokenizer()
    # parquet then fills keys in
    other = {k: [user("other?")] if k == "prompt" and isinstance(v, list) else v for k, v in row.items()}
    pairs = load_pairs(write(tmp_path/f"in{kind}",
                             [row, other] if isinstance(row.get("prompt"), list) and form != "parts"
                             else [row]))
    kept, dropped = filter_pairs(pairs, gamma=1., tokenizer=tok)
    assert dropped == []
    own = tok.apply_chat_template(prompt, tools=tools, add_generation_prompt=True, enable_thinking=False,
                                  tokenize=False)
    ids = tok(own, add_special_tokens=False)["input_ids"]
    assert kept[0]["n_prompt"] == len(ids)
    for name in ("pairs.jsonl", "out.jsonl", "out.parquet"):
        if name == "pairs.jsonl": path = write_jsonl(tmp_path/name, kept)
        else: path = export_pairs(kept, tmp_path/name)
        (e, *_), counts = tokenize_pairs(load_pairs(path), tok, config())
        assert (e.prompt == ids and tok.decode(e.chosen) == "2<|im_end|>"
                and tok.decode(e.rejected) == "3<|im_end|>"), name
        full = tok.apply_chat_template(prompt + [said("2")], tools=tools, tokenize=False)
        assert tok.decode(e.prompt + e.chosen).replace("<think>\n\n</think>\n\n", "") == full.rstrip("\n")


@pytest.mark.parametrize("row",
                         [dict(messages=[user("q"), said("a")]), dict(prompt="q", completion="a"),
                          dict(prompt=[user("q")], completion=[said("a")]), dict(prompt="q", response="a"),
                          dict(prompt="q", chosen="a", rejected="b"),
                          dict(question="q", gemini_corrected_answer="a", original_answer="b")])
@pytest.mark.parametrize("kind", [".jsonl", ".parquet", ".csv"])
def test_samples_for_sft(tmp_path, row, kind):
    tok = tokenizer(DATED)
    (e,), _ = tokenize_pairs(load_samples(write(tmp_path/f"in{kind}", [row])), tok, config(loss="sft"),
                             pairs=False)
    assert (tok.decode(e.prompt + e.chosen)
            == tok.apply_chat_template([user("q"), said("a")], tokenize=False, date_string="26 Jul 2024")
            and e.rejected is None)


@pytest.mark.parametrize("row, what",
                         [(dict(chosen=[user("a"), said("1")], rejected=[user("b"), said("2")]), "differ"),
                          (dict(chosen=[user("a"), said("1"), user("b"), said("2")],
                                rejected=[user("a"), said("x"), user("b"), said("3")]), "differ"),
                          (dict(chosen=[user("a"), said("1")], rejected="2"), "no prompt"),
                          (dict(prompt="q",
                                chosen=[said("wait"), {"role": "tool", "content": "4"}, said("4")],
                                rejected=[said("5")]), "2 assistant turns"),
                          (dict(prompt="q", chosen=[user("other"), said("4")], rejected=[said("5")]),
                           "exactly one"),
                          (dict(prompt="q", chosen=[CALL], rejected=[said("5")]), "tool call"),
                          (dict(prompt="q", chosen=[user("x")], rejected=[said("5")]),
                           "ends with a user turn"),
                          (dict(prompt="q", chosen=[{**said("4"), "reasoning_content": "hm"}],
                                rejected=[said("5")]), "reasoning_content"),
                          (dict(prompt=[{"role": "user", "content": [{"type": "image"}]}], chosen="4",
                                rejected="5"), "'image'"),
                          (dict(prompt="q", chosen="4", rejected="5", images=["x"]), "images"),
                          (dict(prompt="q", completion="4", label=True), "unpaired"),
                          (dict(prompt="q", completions=["4"], labels=[True]), "stepwise"),
                          (dict(prompt=[{"from": "human", "value": "q"}], chosen="4", rejected="5"),
                           "rename"), (dict(prompt="q", chosen="4", rejected="5", tools="{"), "tools"),
                          (dict(prompt="q", chosen="4", rejected="5", enable_thinking=True,
                                sampling={"enable_thinking": False}), "another")])
def test_what_cannot_be_learned_is_refused_by_name(tmp_path, row, what):
    path = write_jsonl(tmp_path/"in.jsonl", [FORMS["strings"][0], row])
    with pytest.raises(SpotError, match=what) as e: load_pairs(path)
    assert "in.jsonl, record 2" in str(e.value)


@pytest.mark.parametrize("row, what",
                         [(dict(messages=[user("q"), said("a"), user("r"), said("b")]), "2 assistant turns"),
                          (dict(messages=[user("q")]), "0 assistant"), (dict(text="q a"), "text"),
                          (dict(completion="a"), "no prompt"), (dict(prompt="q"), "nothing to learn"),
                          (dict(prompt="q", completion="a", label=False), "unpaired")])
def test_samples_that_cannot_be_learned(row, what):
    with pytest.raises(SpotError, match=what): parse_sample(row, "x")


@pytest.mark.parametrize("name, prompt, more, what",
                         [("strict", [{"role": "system", "content": "be brief"}, user("q")], {},
                           "System role"), ("strict", [user("a"), user("b")], {}, "alternate"),
                          ("inst", [{"role": "system", "content": "be brief"}, user("q")], {},
                           "leaves out the system turn"),
                          ("inst", [{"role": "developer", "content": "x y"}, user("q")], {}, "developer"),
                          ("dated", [user("q")], {"tools": TOOLS}, "leaves out the tools"),
                          ("dated", CALLED, {}, "tool calls"),
                          ("chatml", [user("q"), CALL], {}, "cannot be continued"),
                          ("chatml", [user("q"), said(" ")], {}, "cannot be continued")])
def test_what_a_template_rejects_or_ignores_names_the_pair(name, prompt, more, what):
    tok, row = tokenizer(TEMPLATES[name]), dict(id="p9", prompt=prompt, chosen="a", rejected="b", **more)
    with pytest.raises(SpotError, match=what) as e: tokenize_pairs([row], tok, config())
    assert "p9" in str(e.value)
    with pytest.raises(SpotError, match=what) as e: filter_pairs([row], 1., tok)
    assert "p9" in str(e.value)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_that_ends_with_the_assistant_goes_on(name):
    tok, prompt = tokenizer(TEMPLATES[name]), [user("q"), said("The sum is")]
    own = tok.apply_chat_template(prompt, tokenize=False, continue_final_message=True,
                                  date_string="26 Jul 2024")
    (e,), _ = tokenize_pairs([dict(prompt=prompt, chosen=" 4", rejected=" 5")], tok, config())
    assert (tok.decode(e.prompt) == own and own.endswith("The sum is")
            and tok.decode(e.prompt + e.chosen).endswith("The sum is 4<|im_end|>"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_sampling_feeds_the_same_ids(name):
    tok = tokenizer(TEMPLATES[name])
    for prompt in ("q", [user("a"), said("b"), user("c")]):
        (e,), _ = tokenize_pairs([dict(prompt=prompt, chosen="4", rejected="5")], tok,
                                 config(enable_thinking=False))
        assert e.prompt == M.encode_prompt(tok, prompt, False if M.has_thinking_switch(tok) else None)


@pytest.mark.parametrize("recorded", [True, False, None])
@pytest.mark.parametrize("place", ["sampling", "enable_thinking", "chat_template_kwargs"])
def test_the_recorded_thinking_mode_is_used(recorded, place):
    if place == "chat_template_kwargs" and recorded is None: pytest.skip("None means: not given there")
    tok, row = tokenizer(), dict(id="p1", prompt="q", chosen="4", rejected="5")
    row[place] = (recorded if place == "enable_thinking" else {"enable_thinking": recorded, "n": 1}
                  if place == "sampling" else {"enable_thinking": recorded})
    own = tok.apply_chat_template([user("q")], tokenize=False, add_generation_prompt=True,
                                  **({} if recorded is None else {"enable_thinking": recorded}))
    (e,), _ = tokenize_pairs([row], tok, config())
    assert tok.decode(e.prompt) == own and filter_pairs([row], 1., tok)[0][0]["n_prompt"] == len(e.prompt)
    against = recorded is False
    with pytest.raises(SpotError, match="p1.*sampled with enable_thinking"):
        tokenize_pairs([row], tok, config(enable_thinking=against))
    if recorded is not None:
        assert tokenize_pairs([row], tok, config(enable_thinking=recorded))[0][0].prompt == e.prompt
    assert tokenize_pairs([row], tokenizer(DATED), config(enable_thinking=against))  # no switch, no conflict


def test_two_thinking_blocks_are_refused():
    from spot_nb.pairs import perplexities
    tok, row = tokenizer(), dict(id="p1", prompt="q", chosen="<think>\nhm\n</think>\n4",
                                 rejected="<think>\n\n</think>\n5")
    for mode in (None, False):
        with pytest.raises(SpotError, match="p1.*closes the thinking"):
            tokenize_pairs([row], tok, config(enable_thinking=mode))
    with pytest.raises(SpotError, match="p1.*closes the thinking"): perplexities(None, tok, [row])
    assert tokenize_pairs([row], tok, config(enable_thinking=True))[1]["kept"] == 1
    opened = tokenizer(CHATML.replace("{% if enable_thinking is defined",
                                      "<think>\n{% if false and enable_thinking is defined"))
    with pytest.raises(SpotError, match="opens the thinking"): tokenize_pairs([row], opened, config())


def test_the_date_of_a_template_stands_still(monkeypatch):
    import datetime
    import transformers.utils.chat_template_utils as U
    tok, seen = tokenizer(DATED), []
    for day in (1, 2):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None): return cls(2031, 5, day)
        monkeypatch.setattr(U, "datetime", Clock)
        # the clock does reach the template
        assert f"0{day} May 2031" in tok.apply_chat_template([user("q")], tokenize=False)
        seen.append((M.encode_prompt(tok, "q"),
                     tokenize_pairs([dict(prompt="q", chosen="4", rejected="5")], tok,
                                    config())[0][0].prompt))
    assert seen[0] == seen[1] and seen[0][0] == seen[0][1]
    (e,), _ = tokenize_pairs([dict(prompt="q", chosen="4", rejected="5",
                                   chat_template_kwargs={"date_string": "01 Feb 2026"})], tok, config())
    assert "01 Feb 2026" in tok.decode(e.prompt)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_closing_token_stands_once(name):
    tok = tokenizer(TEMPLATES[name])
    end = tok.convert_tokens_to_ids("<|im_end|>")
    for text in ("4", "4<|im_end|>", "4<|im_end|>\n", "a b  "):
        ids = M.encode_response(tok, text)
        assert ids.count(end) == 1 and ids[-1] == end and tok.decode(ids[:-1]) == text.split("<|im_end|>")[0]
    assert end not in M.encode_response(tok, "4", finished=False)
    assert M.encode_response(tok, "4<|im_end|>", finished=False)[-1] == end


@pytest.mark.parametrize("row, pairs, closed",
                         [(dict(chosen="4", rejected="5", finish_reason="length"), True, (True, False)),
                          (dict(chosen="4", rejected="5", rejected_finish_reason="length"), True,
                           (True, False)),
                          (dict(chosen="4", rejected="5", chosen_finish_reason="length"), True,
                           (False, True)),
                          (dict(chosen="4", rejected="5", finish_reason="stop"), True, (True, True)),
                          (dict(chosen="4", rejected="5", finish_reason="length",
                                rejected_finish_reason="stop"), True, (True, True)),
                          (dict(response="4", finish_reason="length"), False, (False,)),
                          (dict(completion=[said("4")], finish_reason="length"), False, (False,)),
                          (dict(chosen="4", rejected="5", finish_reason="length"), False, (True,)),
                          (dict(response="4"), False, (True,))])
def test_responses_cut_by_length_are_not_closed(tmp_path, row, pairs, closed):
    tok, row = tokenizer(), dict(prompt="q", **row)
    end = tok.convert_tokens_to_ids("<|im_end|>")
    loaded = (load_pairs if pairs else load_samples)(write_jsonl(tmp_path/"in.jsonl", [row]))
    sources = [[row], loaded]
    if pairs: sources.append(load_pairs(export_pairs(loaded, tmp_path/"out.parquet")))
    for rows in sources:
        (e,), _ = tokenize_pairs(rows, tok, config(), pairs)
        assert tuple(r[-1] == end for _, r in e.sequences) == closed


def test_pairs_of_one_token_sequence_are_identical_everywhere():
    from tokenizers import normalizers
    tok = tokenizer(normalizer=normalizers.NFC())
    twins = [("caf\u00e9", "cafe\u0301"), ("\u212b", "\u00c5"), ("4", "4<|im_end|>"),
             ("4 \ud800", "4 \udfff")]
    for k, (a, b) in enumerate(twins):
        row = dict(id=k, prompt="q", chosen=a, rejected=b)
        _, dropped = filter_pairs([row], 1., tok)
        assert [p["reason"] for p in dropped] == ["identical"], (a, b)
        _, counts = tokenize_pairs([row, dict(id="x", prompt="q", chosen="1", rejected="2")], tok, config())
        assert counts["identical"] == 1


def test_lone_surrogates_pass_every_stage(tmp_path):
    from spot_nb.diff import compare, split_units
    tok, row = tokenizer(), dict(prompt="q \ud83d", chosen="4 \ude00", rejected="5 \ud800")
    kept, _ = filter_pairs([row], 1., tok)
    for pairs in ([row], kept, load_pairs(write_jsonl(tmp_path/"p.jsonl", kept)),
                  load_pairs(export_pairs(kept, tmp_path/"p.parquet"))):
        (e,), _ = tokenize_pairs(pairs, tok, config())
        assert "q \ufffd" in tok.decode(e.prompt) and tok.decode(e.chosen) == "4 \ufffd<|im_end|>"
    assert compare(split_units("5 \ud800", tok)[0],
                   split_units("4 \ude00", tok)[0]).n_chosen == len(e.chosen) - 1


@pytest.mark.parametrize("cell",
                         ["None", "NA", "007", "nan", "1e5", "True", "null", "3.50", "[1, 2]", "[{'a': 1}]"])
def test_csv_cells_stay_text(tmp_path, cell):
    path = tmp_path/"in.csv"
    path.write_text(
        f'id,prompt,chosen,rejected,answer,verified\n0{1},{json.dumps(cell)},"{cell}",no,"{cell}",True\n',
        encoding="utf-8")
    (p,) = load_pairs(path)
    assert (p["prompt"], p["chosen"], p["answer"], p["id"], p["verified"]) == (cell.strip('"'), cell, cell,
                                                                               "01", True)
    path.write_text('prompt,chosen,rejected,verified\nq,,b,\nq,a,b,False\n')
    assert [(p["chosen"], p.get("verified")) for p in load_pairs(path)] == [(None, None), ("a", False)]


def test_tokenizers_that_do_not_fit():
    bare = tokenizer("{% for m in messages %}{{ m.content }} {% endfor %}", eos=None)
    with pytest.raises(SpotError, match="no end-of-turn token"):
        tokenize_pairs([dict(prompt="q", chosen="4", rejected="5")], bare, config())
    (e,), _ = tokenize_pairs([dict(prompt="q", chosen="4", rejected="5")], tokenizer(), config())
    with pytest.raises(SpotError, match="beyond the 200 rows"): check_vocabulary([e], 200)
    check_vocabulary([e], len(tokenizer()))
