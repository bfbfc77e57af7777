"""Connect4: every rule of the states, the solver against an independent one, the parser against what models
write."""
import json

import pytest
from hypothesis import given, settings, strategies as st

from spot_nb.connect4 import (PROMPT, State, board_svg, cli, generate, generate_bits, make_record,
                              parse_report, parse_state, render_answer, score, solve, winning_moves)
from spot_nb.records import SpotError, read_jsonl

ROWS, COLS = 6, 7
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def grid(state):
    "The board as a dict, read from the text and not from the bitboards."
    import re
    return {(int(r), int(c)): s for r, c, s in re.findall(r"\((\d),(\d)\):([XO_])", state.text())}

def run_through(board, row, col, who):
    "Longest run of `who` through a cell that is taken to be theirs, over the four directions."
    best = 0
    for dr, dc in DIRECTIONS:
        n = 1
        for sign in (1, -1):
            r, c = row + sign*dr, col + sign*dc
            while board.get((r, c)) == who: n, r, c = n + 1, r + sign*dr, c + sign*dc
        best = max(best, n)
    return best

def brute(state):
    board, other = grid(state), "O" if state.player == "X" else "X"
    drops = [(min(r for r in range(ROWS) if board[r, c] == "_"), c)
             for c in range(COLS) if board[ROWS - 1, c] == "_"]
    return tuple({d for d in drops if run_through(board, *d, who) >= 4} for who in (state.player, other))


@pytest.fixture(scope="module")
def states(): return generate(500, seed=0)

def test_states_are_distinct_unfinished_and_reachable(states):
    assert len(states) == len({s.text() for s in states}) == 500
    for s in states:
        board = grid(s)
        x, o = (sum(v == w for v in board.values()) for w in "XO")
        assert x - o == (0 if s.player == "X" else 1)
        assert not any(v != "_" and run_through(board, *rc, v) >= 4 for rc, v in board.items())
        assert any(board[ROWS - 1, c] == "_" for c in range(COLS))
        assert all(board[r, c] == "_" or r == 0 or board[r - 1, c] != "_" for r in range(ROWS)
                   for c in range(COLS))

def test_quiet_states_are_at_most_a_fifth(states):
    quiet = [s for s in states if not any(brute(s))]
    assert 0 < len(quiet) <= 100
    assert not any(not any(s.winning()) for s in generate(60, seed=3, max_quiet=0))

def test_solver_equals_brute_force_on_ten_thousand_states():
    for s in generate(10_000, seed=5, max_quiet=0.5):
        assert s.winning() == brute(s) == winning_moves(s.text())

def test_arrays_and_ints_agree(states):
    import numpy as np
    mover, opponent, ply = generate_bits(300, seed=2)
    mine, theirs = solve(mover, opponent)
    assert [(int(a), int(b)) for a, b in zip(mine, theirs)] == [solve(int(a), int(b))
                                                                for a, b in zip(mover, opponent)]
    assert len(set(zip(mover.tolist(),
                       opponent.tolist()))) == 300 and mover.dtype == np.uint64 and ply.max() < 42

def test_same_seed_same_states(): assert generate(50, 9) == generate(50, 9) != generate(50, 10)

def test_all_plies_occur(states): assert len({(s.x | s.o).bit_count() for s in states}) > 25

@given(st.lists(st.integers(0, COLS - 1), max_size=42))
@settings(max_examples=150, deadline=None)
def test_any_position_of_play_survives_its_text(columns):
    stones, height = {"X": 0, "O": 0}, [0]*COLS
    for i, c in enumerate(c for c in columns):
        if height[c] == ROWS: continue
        stones["XO"[sum(height) % 2]] |= 1 << (7*c + height[c])
        height[c] += 1
    s = State(stones["X"], stones["O"], "XO"[sum(height) % 2])
    assert parse_state(s.text()) == s and s.winning() == brute(s)
    assert [c for _, c in s.legal] == [c for c in range(COLS) if height[c] < ROWS]

def test_state_text_in_other_clothes(states):
    s = states[7]
    body = ", ".join(f"( {r} , {c} ) : {v.lower()}" for (r, c), v in grid(s).items())
    assert winning_moves(body) == s.winning()  # no player named: the counts tell
    assert winning_moves(PROMPT.format(state=s.text())) == s.winning()
    for line in (f"Current player: {s.player}", f"It is {s.player}'s turn", f"{s.player} to move",
                 f"You play as {s.player}."):
        assert parse_state(f"{body}\n{line}").player == s.player

@pytest.mark.parametrize("edit, message",
                         [(lambda t: t.replace("(5,0):_", ""), "lacks (5, 0)"),
                          (lambda t: t.replace("(5,3):_", "(5,3):X"), "float"), (lambda t: "", "0 cells"),
                          (lambda t: t.replace("Player to move: X", "").replace("(0,0):_",
                                                                                "(0,0):X").replace("(0,6):_",
                                                                                                   "(0,6):X"),
                           "X has +2")])
def test_bad_states_are_named(edit, message):
    with pytest.raises(SpotError, match=message.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        winning_moves(edit(State(0, 0, "X").text()))

ANSWER = [[[0, 0], [3, 4]], [[2, 6]]]

@pytest.mark.parametrize("reply",
                         ["[MY WINS: (0,0), (3,4)]\n[OPPONENT WINS: (2,6)]",
                          "[my wins: (3,4),(0,0)] [opponent wins: (2,6)]",
                          "[OPPONENT WINS:(2, 6)]\n[MY WINS:( 3,4 ) ;( 0, 0 )]",
                          "[MY WINS: None] [OPPONENT WINS: None]\nOn reflection:\n[MY WINS: (0,0), "
                          "(3,4)]\n[OPPONENT WINS: (2,6)]",
                          "[My winning moves: (0,0), (3,4)]\n[Opponent's winning moves: (2,6)]",
                          "**[MY WINS: [0,0], [3,4]]**\n**[OPPONENT WINS: [2,6]]**",
                          "<think>[MY WINS: None]</think>[MY WINS: (0,0), (3,4), (3,4)] [OPPONENT WINS: "
                          "(2,6)]"])
def test_right_in_any_form(reply):
    assert score(reply, ANSWER)["both"] == 1 and score(reply, json.dumps(ANSWER))["mean"] == 1

@pytest.mark.parametrize("reply, mover, opponent, broken",
                         [("[MY WINS: (0,0)] [OPPONENT WINS: (2,6)]", 0, 1, 0),
                          ("[MY WINS: (0,0), (3,4), (1,1)] [OPPONENT WINS: (2,6)]", 0, 1, 0),
                          ("[MY WINS: (0,0), (3,4)]", 1, 0, 1),
                          ("[MY WINS: (2,6)] [OPPONENT WINS: (0,0), (3,4)]", 0, 0, 0), ("", 0, 0, 1),
                          ("MY WINS: (0,0), (3,4)", 0, 0, 1), ("[MY WINS: ] [OPPONENT WINS: (2,6)]", 0, 1, 1),
                          ("[MY WINS: column 0 and (3,4)] [OPPONENT WINS: (2,6)]", 0, 1, 1),
                          ("<think>[MY WINS: (0,0), (3,4)] [OPPONENT WINS: (2,6)]", 0, 0, 1)])
def test_wrong_stays_wrong(reply, mover, opponent, broken):
    got = score(reply, ANSWER)
    assert (got["mover"], got["opponent"], got["format_error"]) == (mover, opponent, broken)
    assert got["both"] == (mover and opponent) and got["mean"] == (mover + opponent)/2

def test_none_is_an_answer():
    for word in ("None", "none", "NONE", "no moves", "None."):
        assert score(f"[MY WINS: {word}] [OPPONENT WINS: {word}]", [[], []])["both"] == 1
    assert score("[MY WINS: None] [OPPONENT WINS: (2,6)]", ANSWER)["format_error"] == 0

@given(st.text(alphabet="[]()MYWINSOPET: ,0123none\n<think/>", max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_parser(text):
    got = score(text, ANSWER)
    assert got["format_error"] == int(None in parse_report(text))

@pytest.mark.parametrize("answer", ["not json", [[1, 2]], 5, None, [[[0, 0]], [[1]]]])
def test_a_malformed_answer_is_named(answer):
    with pytest.raises(SpotError, match="two lists"): score("x", answer)

def test_gold_of_every_record_scores(states):
    for r in map(make_record, states):
        assert score(render_answer(r["answer"]), r["answer"])["both"] == 1
        assert (tuple(sorted(map(tuple, w)) for w in r["answer"])
                == tuple(sorted(w) for w in brute(parse_state(r["prompt"]))))

def test_board_picture(states):
    s = next(s for s in states if s.winning()[0])
    svg = board_svg(s)
    assert svg.count("<circle") == 42 + sum(map(len, s.winning())) and f"{s.player} to move" in svg

def test_command(tmp_path, capsys):
    assert cli(["--n", "30", "--seed", "4", "-o", str(tmp_path/"a.jsonl")]) == 0
    assert cli(["--n", "30", "--seed", "4", "--output", str(tmp_path/"b.jsonl"), "--max-quiet", "0.2"]) == 0
    assert (tmp_path/"a.jsonl").read_bytes() == (tmp_path/"b.jsonl").read_bytes()
    assert ([r["index"] for r in read_jsonl(tmp_path/"a.jsonl")] == list(range(30))
            and "30 states" in capsys.readouterr().out)
    with pytest.raises(SpotError, match="at least 1"): cli(["--n", "0", "-o", str(tmp_path/"c.jsonl")])
