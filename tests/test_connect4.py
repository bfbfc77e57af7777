"""Connect4: every rule of the states, the solver against an independent one, the parser against what models
write."""
import json

import pytest
from hypothesis import given, settings, strategies as st

from spot_nb.connect4 import (State, generate, generate_bits, make_record, parse_report, parse_state,
                              render_answer, score, solve, winning_moves)

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

def test_gold_of_every_record_scores(states):
    for r in map(make_record, states):
        assert score(render_answer(r["answer"]), r["answer"])["both"] == 1
        assert (tuple(sorted(map(tuple, w)) for w in r["answer"])
                == tuple(sorted(w) for w in brute(parse_state(r["prompt"]))))

