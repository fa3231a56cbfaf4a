"""An ONNX graph that is read carries all of its weights."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

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
