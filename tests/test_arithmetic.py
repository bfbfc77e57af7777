from hypothesis import given, settings, strategies as st
from spot_nb.arithmetic import rectify_trace, solution, steps_of
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
