import pytest
from hypothesis import given, settings, strategies as st
from spot_nb.arithmetic import (arithmetic_oracle, expression_of, few_shot, make_problems, rectify_trace,
                                solution, steps_of)
from spot_nb.records import SpotError
from spot_nb.verify import is_correct

expressions = st.tuples(st.integers(0, 30),
                        st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 30)), min_size=1,
                                 max_size=4)).map(lambda t:
                                                  " ".join([str(t[0])]
                                                           + [x for op, n in t[1] for x in (op, str(n))]))


@settings(max_examples=200, deadline=None)
@given(expressions, st.text(alphabet="0123456789+-= \nabc\\boxed{}.", max_size=120))
def test_the_oracle_is_always_right(expression, response):
    fixed, how = rectify_trace(expression, response)
    assert is_correct(fixed, str(eval(expression))) and how in ("edited", "completed", "rewritten")
    again, _ = rectify_trace(expression, fixed)
    assert again == fixed                                   # a corrected response needs no correction


@given(expressions)
def test_a_right_response_is_left_alone(expression):
    assert rectify_trace(expression, solution(expression)) == (solution(expression), "edited")
    assert steps_of(expression)[-1][-1] == eval(expression)


def test_one_wrong_digit_costs_one_edit():
    wrong = "First, 7 + 8 = 14.\nThen 14 - 3 = 11\nThe answer is \\boxed{11}."
    assert rectify_trace("7 + 8 - 3",
                         wrong)[0] == "First, 7 + 8 = 15.\nThen 15 - 3 = 12\nThe answer is \\boxed{12}."


def test_surplus_steps_are_dropped_and_prose_is_kept():
    fixed, how = rectify_trace("2 + 3", "Sure!\n2 + 3 = 6\n6 + 1 = 7\nThe answer is \\boxed{7}.")
    assert (fixed, how) == ("Sure!\n2 + 3 = 5\nThe answer is \\boxed{5}.", "edited")


def test_splits_do_not_overlap_and_examples_are_not_asked():
    train = make_problems(300, seed=3); test = make_problems(200, seed=4, exclude=train)
    asked = {expression_of(p) for p in train} | {expression_of(p) for p in test}
    assert len(asked) == 500 and not asked & {"4 + 9 - 6", "15 - 8 + 3"}
    with pytest.raises(SpotError, match="widen the range"): make_problems(100, low=2, high=3)


def test_other_questions_are_refused():
    with pytest.raises(SpotError, match="own problems"):
        arithmetic_oracle({"prompt": "What is love?", "response": "x"})
    assert expression_of({"prompt": few_shot("1 + 2")}) == "1 + 2"
