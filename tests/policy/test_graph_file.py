"""An ONNX graph that is read carries all of its weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qsft_robot.policy.graph_file import read_graph


def hidden(place: str) -> onnx.ModelProto:
    """A graph with a tensor that lies elsewhere, deep in one of the places that hold tensors."""
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL
    )
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    graph = helper.make_graph([node], "inner", [], [])
    if place == "function":
        model = helper.make_model(helper.make_graph([], "main", [], []))
        model.functions.append(helper.make_function("d", "f", [], ["w"], [node], []))
        return model
    if place == "branch":
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], ["w"], then_branch=graph, else_branch=graph)],
            "main", [], [],
        )  # fmt: skip
    if place == "initializer":
        graph = helper.make_graph([], "main", [], [], initializer=[tensor])
    return helper.make_model(graph)


@pytest.mark.parametrize("place", ["constant", "initializer", "branch", "function"])
def test_it_is_found_wherever_a_graph_holds_tensors(tmp_path, place):
    path = tmp_path / "a.onnx"
    path.write_bytes(hidden(place).SerializeToString())
    with pytest.raises(ValueError, match=r"a\.onnx: some of its weights lie in another file"):
        read_graph(path)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x3a\xff\xff\xff\xff\x0f", b"\x0a"])
def test_what_is_no_graph_is_named(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.onnx: not an ONNX graph"):
        read_graph(tmp_path / "a.onnx")


def written(path, weights, as_numbers=False):
    """A graph with these weights, as raw bytes or as packed numbers."""
    tensor = numpy_helper.from_array(weights, "head.weight")
    if as_numbers:
        tensor = helper.make_tensor("head.weight", tensor.data_type, weights.shape, weights)
    graph = helper.make_graph([], "main", [], [], initializer=[tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("as_numbers", [False, True])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad, kind, as_numbers):
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    if as_numbers and kind in ("float16", "bfloat16"):
        pytest.skip("onnx packs these as whole numbers, which no exporter of ours does")
    weights = np.array([[1, 2], [bad, 3]]).astype(dtype)
    with pytest.raises(ValueError, match=r"a\.onnx: head\.weight holds NaN or Inf"):
        read_graph(written(tmp_path / "a.onnx", weights, as_numbers))
    weights[1, 0] = np.finfo(np.float16).max
    assert read_graph(written(tmp_path / "a.onnx", weights, as_numbers))


@pytest.mark.parametrize("mask", [np.array(-np.inf), np.triu(np.full((3, 3), -np.inf), 1)])
def test_the_infinite_numbers_of_a_mask_are_no_weights(tmp_path, mask):
    assert read_graph(written(tmp_path / "a.onnx", mask.astype(np.float32)))
