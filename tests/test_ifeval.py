"""IFEval: each of the 25 kinds passes and fails as it should, on our rows and on the published prompts' own
arguments."""
import subprocess
import sys

import pytest

pytest.importorskip("lm_eval", reason="needs the ifeval extra")
from spot_nb.ifeval import build_checks, checker_info, instruction_kinds, score, small_set
from spot_nb.records import read_jsonl

FRENCH = "Le chat dort sur la chaise près de la fenêtre et le soleil chauffe toute la maison."
SAMPLES = {"fr": FRENCH, "en": "The cat sleeps on the chair near the window while the sun warms the house.",
           "de": "Die Katze schläft auf dem Stuhl am Fenster und die Sonne wärmt das ganze Haus.",
           "es": "El gato duerme en la silla cerca de la ventana mientras el sol calienta toda la casa.",
           "it": "Il gatto dorme sulla sedia vicino alla finestra mentre il sole scalda la casa.",
           "pt": "O gato dorme na cadeira perto da janela enquanto o sol aquece a casa inteira.",
           "ru": "Кошка спит на стуле у окна, а солнце согревает весь дом.",
           "vi": "Con mèo đang ngủ trên chiếc ghế gần cửa sổ và mặt trời sưởi ấm ngôi nhà.",
           "hi": "बिल्ली खिड़की के पास कुर्सी पर सोती है और सूरज पूरे घर को गर्म करता है।",
           "ar": "القطة تنام على الكرسي بجانب النافذة والشمس تدفئ البيت كله.",
           "fa": "گربه روی صندلی کنار پنجره می‌خوابد و آفتاب تمام خانه را گرم می‌کند.",
           "ko": "고양이는 창가 의자에서 자고 햇빛이 온 집을 따뜻하게 합니다.",
           "th": "แมวนอนหลับบนเก้าอี้ใกล้หน้าต่างและแสงแดดทำให้บ้านอบอุ่น",
           "bn": "বিড়ালটি জানালার পাশে চেয়ারে ঘুমায় এবং সূর্য পুরো বাড়ি গরম করে।",
           "bg": "Котката спи на стола до прозореца, а слънцето топли цялата къща.",
           "ur": "بلی کھڑکی کے پاس کرسی پر سوتی ہے اور سورج پورے گھر کو گرم کرتا ہے۔",
           "ta": "பூனை ஜன்னல் அருகே நாற்காலியில் தூங்குகிறது.",
           "te": "పిల్లి కిటికీ దగ్గర కుర్చీ మీద నిద్రపోతుంది.",
           "kn": "ಬೆಕ್ಕು ಕಿಟಕಿಯ ಬಳಿ ಕುರ್ಚಿಯ ಮೇಲೆ ಮಲಗುತ್ತದೆ.",
           "mr": "मांजर खिडकीजवळच्या खुर्चीवर झोपते आणि सूर्य संपूर्ण घर उबदार करतो आहे.",
           "gu": "બિલાડી બારી પાસે ખુરશી પર સૂએ છે.", "pa": "ਬਿੱਲੀ ਖਿੜਕੀ ਕੋਲ ਕੁਰਸੀ ਉੱਤੇ ਸੌਂਦੀ ਹੈ।",
           "ne": "बिरालो झ्यालको छेउमा कुर्सीमा सुतिरहेको छ र घामले सबै घर न्यानो बनाउँछ।",
           "fi": "Kissa nukkuu tuolilla ikkunan vieressä ja aurinko lämmittää koko taloa.",
           "sw": "Paka analala kwenye kiti karibu na dirisha na jua linapasha joto nyumba yote."}
at_least = lambda relation, n: n if relation == "at least" else max(n - 1, 0)


def compliant(kind, a):
    "A text that follows one instruction, written from its arguments."
    n = {k: int(v) for k, v in a.items() if isinstance(v, (int, float))}
    return {"punctuation:no_comma": lambda: "No pause here.",
            "length_constraints:number_words": lambda: "word "*at_least(a["relation"], n["num_words"])
            if at_least(a["relation"], n["num_words"]) else "...",
            "length_constraints:number_sentences": lambda:
            "This is one more sentence. "*max(at_least(a["relation"], n["num_sentences"]), 1),
            "length_constraints:number_paragraphs": lambda:
            "\n***\n".join(["A paragraph."]*n["num_paragraphs"]),
            "length_constraints:nth_paragraph_first_word": lambda:
            "\n\n".join((a["first_word"] if i == n["nth_paragraph"] else "text") + " and more"
                        for i in range(1, n["num_paragraphs"] + 1)),
            "keywords:existence": lambda: " ".join(a["keywords"]),
            "keywords:forbidden_words": lambda: "qqq zzz",
            "keywords:frequency": lambda: "filler "
            + (a["keyword"] + " ")*at_least(a["relation"], n["frequency"]),
            "keywords:letter_frequency": lambda: "0 "
            + a["letter"]*at_least(a["let_relation"], n["let_frequency"]),
            "language:response_language": lambda: SAMPLES[a["language"]],
            "detectable_content:number_placeholders": lambda: "[name] "*n["num_placeholders"],
            "detectable_content:postscript": lambda: f"Dear you.\n{a['postscript_marker']} one more thing",
            "detectable_format:number_bullet_lists": lambda: "* item\n"*n["num_bullets"],
            "detectable_format:constrained_response": lambda: "My answer is yes.",
            "detectable_format:number_highlighted_sections": lambda: "*part* and "*n["num_highlights"],
            "detectable_format:multiple_sections": lambda: "".join(f"{a['section_spliter']} {i}\nText.\n"
                                                                   for i in range(1, n["num_sections"] + 1)),
            "detectable_format:json_format": lambda: '```json\n{"a": 1}\n```',
            "detectable_format:title": lambda: "<<A title>>\nText.",
            "combination:two_responses": lambda: "One answer.\n******\nAnother answer.",
            "combination:repeat_prompt": lambda: a["prompt_to_repeat"] + "\nHere goes.",
            "startend:end_checker": lambda: "So it goes. " + a["end_phrase"],
            "startend:quotation": lambda: '"All of it"',
            "change_case:capital_word_frequency": lambda: "word "
            + "LOUD "*at_least(a["capital_relation"], n["capital_frequency"]),
            "change_case:english_capital": lambda: SAMPLES["en"].upper(),
            "change_case:english_lowercase": lambda: SAMPLES["en"].lower(),}[kind]()

def violating(kind, a):
    "A text that breaks one instruction, and is not empty."
    n = {k: int(v) for k, v in a.items() if isinstance(v, (int, float))}
    fewer = lambda relation, k: max(k - 1, 0) if relation == "at least" else k
    return {"punctuation:no_comma": lambda: "One, two.",
            "length_constraints:number_words": lambda: "word "*fewer(a["relation"], n["num_words"]) or "...",
            "length_constraints:number_sentences": lambda: "This is one more sentence. "*fewer(a["relation"],
                                                                                               n[
                                                                                                   "num_sentences"])
            or None,
            "length_constraints:number_paragraphs": lambda:
            "\n***\n".join(["A paragraph."]*(n["num_paragraphs"] + 1)),
            "length_constraints:nth_paragraph_first_word": lambda:
            "\n\n".join(["wrong start"]*n["num_paragraphs"]),
            "keywords:existence": lambda: "nothing of the kind",
            "keywords:forbidden_words": lambda: "so " + a["forbidden_words"][0],
            "keywords:frequency": lambda: "- " + (a["keyword"] + " ")*fewer(a["relation"], n["frequency"]),
            "keywords:letter_frequency": lambda: "0 "
            + a["letter"]*fewer(a["let_relation"], n["let_frequency"]),
            "language:response_language": lambda: SAMPLES["en" if a["language"] != "en" else "fr"],
            "detectable_content:number_placeholders": lambda: "[name] "*(n["num_placeholders"] - 1) + "end",
            "detectable_content:postscript": lambda: "Dear you. Bye.",
            "detectable_format:number_bullet_lists": lambda: "* item\n"*(n["num_bullets"] + 1),
            "detectable_format:constrained_response": lambda: "Perhaps.",
            "detectable_format:number_highlighted_sections": lambda: "plain "
            + "*part* and "*(n["num_highlights"] - 1), "detectable_format:multiple_sections": lambda: "Text.",
            "detectable_format:json_format": lambda: "{a: 1", "detectable_format:title": lambda: "<<>> Text.",
            "combination:two_responses": lambda: "Just one.",
            "combination:repeat_prompt": lambda: "Here goes.",
            "startend:end_checker": lambda: a["end_phrase"] + " And then some.",
            "startend:quotation": lambda: '"Half of it" only',
            "change_case:capital_word_frequency": lambda: "word "
            + "LOUD "*fewer(a["capital_relation"], n["capital_frequency"]),
            "change_case:english_capital": lambda: SAMPLES["en"],
            "change_case:english_lowercase": lambda: SAMPLES["en"],}[kind]()

OWN = {"length_constraints:number_words": {"relation": "less than", "num_words": 20},
       "length_constraints:number_sentences": {"relation": "at least", "num_sentences": 3},
       "length_constraints:number_paragraphs": {"num_paragraphs": 3},
       "length_constraints:nth_paragraph_first_word": {"num_paragraphs": 3, "nth_paragraph": 2,
                                                       "first_word": "rain"},
       "keywords:existence": {"keywords": ["river", "lantern"]},
       "keywords:forbidden_words": {"forbidden_words": ["cold"]},
       "keywords:frequency": {"relation": "at least", "keyword": "bird", "frequency": 3},
       "keywords:letter_frequency": {"let_relation": "less than", "letter": "q", "let_frequency": 4},
       "language:response_language": {"language": "de"},
       "detectable_content:number_placeholders": {"num_placeholders": 2},
       "detectable_content:postscript": {"postscript_marker": "P.S."},
       "detectable_format:number_bullet_lists": {"num_bullets": 3},
       "detectable_format:number_highlighted_sections": {"num_highlights": 2},
       "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 3},
       "combination:repeat_prompt": {"prompt_to_repeat": "Say it twice."},
       "startend:end_checker": {"end_phrase": "See you."},
       "change_case:capital_word_frequency": {"capital_relation": "at least", "capital_frequency": 3},}
row_of = lambda kind, args, prompt="Do it.": {"prompt": prompt, "instruction_id_list": [kind],
                                              "kwargs": [args]}


@pytest.mark.parametrize("kind", instruction_kinds())
def test_each_kind_passes_and_fails(kind):
    args = OWN.get(kind, {})
    assert score(compliant(kind, args), row_of(kind, args))["strict"] == [True]
    assert score(violating(kind, args), row_of(kind, args))["strict"] == [False]

def test_every_published_instruction_passes_and_fails(benchmarks):
    rows, seen = read_jsonl(benchmarks/"ifeval.jsonl"), set()
    assert len(rows) == 541
    for row in rows:
        assert len(build_checks(row)) == len(row["kwargs"])
        for kind, args in zip(row["instruction_id_list"], row["kwargs"]):
            one = row_of(kind, args, row["prompt"])
            assert score(compliant(kind, args), one)["prompt_strict"], (row["key"], kind, args)
            bad = violating(kind, args)
            if bad: assert not score(bad, one)["prompt_strict"], (row["key"], kind, args)
            seen.add(kind)
    assert len(seen) == 25

def test_published_scores_do_not_move_between_runs(benchmarks):
    rows = read_jsonl(benchmarks/"ifeval.jsonl")[::9]
    reply = "Certainly! Here is a LONG answer, with *marks*.\n\nParagraph two. " + FRENCH + "\nP.S. [x] bye"
    first = [score(reply, r) for r in rows]
    build_checks.__globals__["_built"].cache_clear()
    assert [score(reply, r) for r in reversed(rows)][::-1] == first

def test_small_set_is_our_own_and_solvable(benchmarks):
    rows, public = small_set(), {r["prompt"] for r in read_jsonl(benchmarks/"ifeval.jsonl")}
    assert len(rows) == 40 and not public & {r["prompt"] for r in rows}

def test_small_set_instructions_can_be_followed():
    for row in small_set():
        for kind, args in zip(row["instruction_id_list"], row["kwargs"]):
            assert score(compliant(kind, args), row_of(kind, args))["prompt_strict"], row["key"]

def test_nothing_is_downloaded_and_lm_eval_stays_unloaded():
    code = ("import socket, sys\n"
            "def no(*a, **k): raise OSError('network')\n"
            "socket.socket.connect = socket.create_connection = no\n"
            "from spot_nb.ifeval import score\n"
            "row = {'prompt': 'x', 'instruction_id_list': ['length_constraints:number_sentences'], "
            "'kwargs': [{'relation': 'at least', 'num_sentences': 2}]}\n"
            "assert score('Dr. Smith came. He left.', row)['prompt_strict'] == 1\n"
            "row['kwargs'][0]['num_sentences'] = 3\n"
            "assert score('Dr. Smith came. He left.', row)['prompt_strict'] == 0\n"
            "assert not any(m == 'lm_eval' or m.startswith('lm_eval.') for m in sys.modules)\n"
            "import nltk; assert callable(nltk.download)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ownload" not in done.stdout + done.stderr

def test_versions_are_reported(): assert set(checker_info()) == {"lm_eval", "nltk", "langdetect", "punkt"}
