import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qsft_robot.rollouts.array_messages import pack, unpack

arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


@given(trees)
def test_a_message_comes_back_as_it_was_sent(tree):
    assert same(tree, unpack(pack(tree)))


def test_arrays_come_back_writable_and_views_are_sent_as_they_look():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    back = unpack(pack({"a": array}))["a"]
    assert (back == array).all()
    back[:] = 0


@pytest.mark.parametrize("content", [object(), np.array([None]), {1, 2}])
def test_what_is_neither_json_nor_numbers_is_refused(content):
    with pytest.raises(TypeError, match="can't be sent"):
        pack({"a": content})
