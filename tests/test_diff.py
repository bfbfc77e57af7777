"""LCS and spans against a textbook dynamic programme; the page against hostile text, in a real browser."""
import html, json, random, re, shutil, subprocess

import pytest
from hypothesis import given, settings, strategies as st

from spot_nb import diff, inspection
from spot_nb.records import SpotError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def textbook(a, b):
    row = [0]*(len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1): last, row[j] = row[j], last + 1 if x == y else max(row[j], row[j-1])
    return row[-1]


def rebuild(spans, a, b):
    "Check that the spans cover both sides in order, that kept slices agree and that edits are named rightly."
    i = j = 0
    for op, i1, i2, j1, j2 in spans:
        assert (i1, j1) == (i, j) and i1 <= i2 and j1 <= j2
        if op == "equal": assert a[i1:i2] == b[j1:j2] and i1 < i2
        else:
            assert op == ("replace" if i1 < i2 and j1 < j2 else "delete" if i1 < i2
                          else "insert") and (i1 < i2 or j1 < j2)
        i, j = i2, j2
    assert (i, j) == (len(a), len(b))


def test_lcs_equals_the_textbook_on_10000_cases():
    rng = random.Random(0)
    for case in range(10_000):
        alphabet = rng.choice([range(2), range(5), range(-3, 60), [65279, 0xD800, 0xDC00, 1_114_111],
                               ["a", "b", ("c", 1), None, 2.5]])
        a, b = (rng.choices(list(alphabet), k=rng.randrange(0, 14 if case % 50 else 140)) for _ in range(2))
        d = diff.compare(a, b)
        assert d.lcs == diff.lcs_length(a, b) == textbook(a, b) == sum(s[2] - s[1]
                                                                       for s in d.spans if s[0] == "equal")
        rebuild(d.spans, a, b)
        assert 0 <= diff.change_ratio(a, b) == d.change_ratio <= 1


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_ratio_on_text(a, b):
    assert diff.change_ratio(a, a) == 0
    d = diff.compare(a, b)
    assert d.lcs == textbook(a, b)
    rebuild(d.spans, a, b)
    common = next((k for k, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    assert d.prefix == common
    if not set(a) & set(b) and b: assert d.change_ratio == 1


PIECES = ["🙂", "🙃", "🙅", "👩‍👩‍👧", "e\u0301", "é", "日本語", "本", "Ω", "\u202e", "\x00", "a",
          " ", "\n", "\r\n",
          "12", "the", "\\frac{1}{2}", "\ud800", "ﬁ", "𝔘"]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@pytest.fixture(scope="module")
def tok():
    from spot_nb.models import load_tokenizer
    return load_tokenizer("embedded")


def test_text_spans_rebuild_any_text(tok):
    @settings(max_examples=400, deadline=None)
    @given(texts, texts)
    def check(a, b):
        for unit in (tok, "words", "chars"): rebuild(diff.text_spans(a, b, unit), a, b)
    check()
    a, b = (tok(t, add_special_tokens=False)["input_ids"] for t in ("x 🙃 y", "x 🙅 y"))
    # the edit begins between two tokens of one code point
    assert len(a) > 3 and diff.compare(a, b).prefix > 1
    assert diff.text_spans("x 🙃 y", "x 🙅 y", tok) == [("equal", 0, 2, 0, 2), ("replace", 2, 3, 2, 3),
                                                      ("equal", 3, 5, 3, 5)]


def test_text_spans_survive_a_tokenizer_that_rewrites_text():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    raw = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = (normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
                                         pre_tokenizers.Whitespace())
    lower = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    for a, b in (("Hello  World", "hello world"), ("  foo bar", "baz ﬁ"), ("HELLO", "hello world x")):
        rebuild(diff.text_spans(a, b, lower), a, b)


HOSTILE = ["<script>document.documentElement.dataset.pwned = 1</script>",
           "</script><script>document.documentElement.dataset.pwned = 1</script>",
           "</style><script>document.documentElement.dataset.pwned = 1</script><style>",
           "<img src=x onerror=\"document.documentElement.dataset.pwned = 1\">",
           "<svg onload='document.documentElement.dataset.pwned = 1'><a "
           "href=\"javascript:document.documentElement.dataset.pwned=1\">x</a></svg>", "<!--<script>",
           "--><iframe srcdoc='<script>parent.document.documentElement.dataset.pwned=1</script>'></iframe>",
           "\\(\\href{javascript:document.documentElement.dataset.pwned=1}{x}\\) "
           "$\\style{background:url(//x)}{y}$ "
           "$$\\text{<script>document.documentElement.dataset.pwned=1</script>}$$",
           "$\\frac{$ \\[\\begin{align} \\] \\boxed{{{ $" + "{"*3000,
           "\u202eright to left\u202c \u2066x \ufeff \x00", "\u2028\u2029 \ud800 ]]> %3Cscript%3E",]


def hostile_pairs():
    pairs = [dict(id=h, prompt=h, rejected=f"a {h}\nsame {h}\nend", chosen=f"b {h}\nsame {h}\nend {h}",
                  answer=h, oracle=h) for h in HOSTILE]
    return pairs + [dict(id="all", prompt=[{"role": h, "content": h} for h in HOSTILE],
                         rejected="\n".join(HOSTILE), chosen="x" + "\n".join(reversed(HOSTILE)))]


def test_hostile_text_is_escaped():
    fragment = diff.pairs_html(hostile_pairs()).split("</style>", 1)[1]
    tags = {m.split()[0] for m in re.findall(r"<(/?[^>]*)>", fragment)}
    assert not {t.strip("/").lower() for t in tags} & {"script", "img", "style", "iframe", "a"}
    assert not re.search(r"<[^>]*\s(on\w+|style|href|src)=", fragment, re.I)
    assert "\u202e" not in fragment and "U+202E" in fragment
    page = diff.report_html(hostile_pairs(), title="</title><script>")
    assert len(re.findall("<script", page)) == 2 + len(hostile_pairs()) == page.count("</script>")


def test_a_pair_needs_both_responses():
    with pytest.raises(SpotError): diff.Pair(dict(prompt="x", rejected="y"))


def dump(path, fragment="", tmp=None):
    "The page's DOM after its scripts ran."
    cmd = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
           "--disable-sync", "--disable-component-update", f"--user-data-dir={tmp}",
           "--virtual-time-budget=3000", "--dump-dom", f"file://{path}{fragment}"]
    return subprocess.run(cmd, capture_output=True, text=True, errors="replace", timeout=120).stdout


def pwned(dom): return "data-pwned" in re.search("<html[^>]*>", dom).group()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_hostile_page_runs_nothing(tmp_path):
    page, profile = tmp_path/"page.html", tmp_path/"profile"
    text = diff.report_html(hostile_pairs(), title=HOSTILE[1])
    page.write_text(text, encoding="utf-8")
    last = len(hostile_pairs())
    for k in (1, 5, 8, last):
        dom = dump(page, f"#{k}", profile)
        assert ('data-ready="1"' in dom and f">{k} of {last}<" in dom and 'class="spot-pair"' in dom
                and not pwned(dom))
    # The check can fail: the same payload runs on a bare page ...
    bare = tmp_path/"bare.html"
    bare.write_text("<html>" + HOSTILE[0], encoding="utf-8")
    assert pwned(dump(bare, tmp=profile))
    # ... and the policy alone stops it where escaping is left out.
    page.write_text(text.replace("</body>", HOSTILE[0] + HOSTILE[3] + "</body>"), encoding="utf-8")
    dom = dump(page, tmp=profile)
    assert 'data-ready="1"' in dom and not pwned(dom)
    # A fragment has no policy to lean on.
    page.write_text("<html>" + diff.pairs_html(hostile_pairs()).encode("utf-8", "replace").decode(),
                    encoding="utf-8")
    dom = dump(page, tmp=profile)
    assert dom.count('class="spot-pair"') == last and not pwned(dom)


def test_cli_writes_a_page(tmp_path, capsys):
    source = tmp_path/"pairs.jsonl"
    source.write_text(json.dumps(dict(question="q", model_output="a b", gemini_corrected_answer="a c",
                                      solution="1")) + "\n")
    assert inspection.cli([str(source), "-o", str(tmp_path/"r.html")]) == 0
    assert ("1 pairs in" in capsys.readouterr().out
            and html.escape("pairs.jsonl") in (tmp_path/"r.html").read_text())
    source.write_text(json.dumps(dict(question="q", model_output="a")) + "\n")
    with pytest.raises(SpotError, match="record 1"): inspection.cli([str(source)])
