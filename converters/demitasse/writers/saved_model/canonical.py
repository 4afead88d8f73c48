"""Make a saved model the same whenever and wherever it is written.

TensorFlow numbers the functions that it traces through the life of a process, orders them by these numbers, and notes
how many devices the machine has. Nothing of that means anything to who loads the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demitasse.errors import InvalidGraph

__all__ = ["canonicalize"]

MODEL_FILE = "saved_model.pb"
FINGERPRINT_FILE = "fingerprint.pb"


def canonicalize(folder: Path, keywords: Mapping[str, str]) -> Any:
    """Rewrite the saved model in a folder, and return its only `MetaGraphDef`.

    The inputs of its signatures get the source's names, which TensorFlow's Python functions couldn't take.

    Args:
        folder: what `tf.saved_model.save` wrote.
        keywords: for each input, how TensorFlow calls it.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / MODEL_FILE
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta_graph,) = model.meta_graphs
    _rename_functions(meta_graph)
    _forget_machine(meta_graph.graph_def)
    _rename_inputs(meta_graph, keywords)
    path.write_bytes(model.SerializeToString(deterministic=True))
    # It holds a random number beside hashes of the file as it was. Loaders do without one.
    (folder / FINGERPRINT_FILE).unlink(missing_ok=True)
    return meta_graph


def _rename_functions(meta_graph: Any) -> None:
    """Number the functions from 0, each by the name without the number that it has, and sort them by name."""
    library = meta_graph.graph_def.library
    names = {
        function.signature.name: f"{function.signature.name.rpartition('_')[0]}_0" for function in library.function
    }
    if len(set(names.values())) < len(names):
        raise InvalidGraph(f"TensorFlow traced a function twice: {sorted(names)}")
    for function in library.function:
        function.signature.name = names[function.signature.name]
    library.function.sort(key=lambda function: function.signature.name)
    for node in _nodes(meta_graph.graph_def):
        if "f" in node.attr:
            called = node.attr["f"].func
            called.name = names[called.name]
    _rename_in_objects(meta_graph.object_graph_def, names)


def _rename_in_objects(objects: Any, names: Mapping[str, str]) -> None:
    for name in sorted(objects.concrete_functions):
        objects.concrete_functions[names[name]].CopyFrom(objects.concrete_functions[name])
        if names[name] != name:
            del objects.concrete_functions[name]
    for node in objects.nodes:
        if node.HasField("function"):
            traced = [names[name] for name in node.function.concrete_functions]
            node.function.concrete_functions[:] = traced
        if node.HasField("bare_concrete_function"):
            bare = node.bare_concrete_function
            bare.concrete_function_name = names[bare.concrete_function_name]


def _nodes(graph_def: Any) -> Iterable[Any]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _forget_machine(graph_def: Any) -> None:
    """Drop the devices that the writing process saw, and numbers of its objects that pass for names."""
    for node in _nodes(graph_def):
        if "config_proto" in node.attr:
            node.attr["config_proto"].s = b""
    for function in graph_def.library.function:
        for argument in function.arg_attr.values():
            name = argument.attr.get("_user_specified_name")
            if name is not None and re.fullmatch(rb"\d+", name.s):
                del argument.attr["_user_specified_name"]


def _rename_inputs(meta_graph: Any, keywords: Mapping[str, str]) -> None:
    """Give the inputs of the signatures the source's names."""
    names = {keyword: name for name, keyword in keywords.items()}
    for signature in meta_graph.signature_def.values():
        infos = {names[keyword]: info for keyword, info in signature.inputs.items()}
        copies = {name: type(info).FromString(info.SerializeToString()) for name, info in infos.items()}
        signature.inputs.clear()
        for name, info in copies.items():
            signature.inputs[name].CopyFrom(info)
