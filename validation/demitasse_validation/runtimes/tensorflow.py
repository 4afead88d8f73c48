"""Runs SavedModels in TensorFlow, on a graphics card where TensorFlow sees one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from demitasse.errors import MalformedModel, UsageError
from demitasse.ir.document import Port
from demitasse.ir.weights import Array
from demitasse.writers.saved_model import read_document
from demitasse.writers.saved_model.backend import import_tensorflow
from demitasse_validation.runtimes import TensorSpec, check_feeds

__all__ = ["SavedModelRunner"]

SIGNATURE = "serving_default"
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
WRAPPING = CALLS | {"Placeholder", "Identity", "NoOp"}
"""The operators of a function that does nothing but call another one."""


class SavedModelRunner:
    """Runs the untouched signature for its outputs, and the function behind it for its layers.

    A signature calls the function that computes the net, through one or two that only pass on what they get. Layers are
    the tensors of that innermost function, taken from the file as it is: nothing is traced or spelled anew, so what
    runs is what the file says. Arithmetic is float32 throughout: TensorFlow's TF32 is switched off, for the process.

    Raises:
        MissingDependency: TensorFlow isn't installed.
        MalformedModel: TensorFlow refuses the folder, or it has no `serving_default`.
        UsageError: TensorFlow runs already in this process, with another number of threads.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self.path = path
        self._tensorflow = import_tensorflow("Running a SavedModel")
        if threads is not None:
            self._limit_threads(threads)
        self._tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        device = "GPU" if self._tensorflow.config.list_physical_devices("GPU") else "CPU"
        self.runtime = f"TensorFlow {self._tensorflow.__version__} ({device})"
        self._loaded = self._load()
        self._signature = self._loaded.signatures[SIGNATURE]
        self._keywords, inputs, outputs = self._ports()
        self.inputs = {name: _spec(info) for name, info in inputs.items()}
        self.outputs = {name: _spec(info) for name, info in outputs.items()}
        self._layers: Any = None
        self._layer_names: tuple[str, ...] = ()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(str(self.path), self.inputs, feeds)
        results = self._call(self._signature, self._arguments(feeds))
        return {name: results[name].numpy() for name in self.outputs}

    def run_layers(self, feeds: Mapping[str, Array], tensors: Iterable[str]) -> dict[str, Array]:
        check_feeds(str(self.path), self.inputs, feeds)
        wanted = dict.fromkeys(tensors)
        names = tuple(name for name in wanted if name in self._body.tensors)
        if not names:
            return {}
        if self._layer_names != names:
            self._layers, self._layer_names = self._body.giving(names), names
        results = self._call(self._layers, self._arguments(feeds))
        return dict(zip(names, (result.numpy() for result in results), strict=True))

    def missing(self, tensors: Iterable[str]) -> dict[str, str]:
        return {name: "the file has no such tensor" for name in tensors if name not in self._body.tensors}

    def _limit_threads(self, threads: int) -> None:
        threading = self._tensorflow.config.threading
        try:
            threading.set_intra_op_parallelism_threads(threads)
            threading.set_inter_op_parallelism_threads(1)  # operators one after the other, as a limit means it
        except RuntimeError as error:
            raise UsageError(
                f"TensorFlow runs already with {threading.get_intra_op_parallelism_threads() or 'all'} threads, and"
                f" can't change that to {threads}; load the first model of the process with the threads wanted"
            ) from error

    def _load(self) -> Any:
        errors = (OSError, ValueError, KeyError, AttributeError, self._tensorflow.errors.OpError)
        try:
            loaded = self._tensorflow.saved_model.load(str(self.path))
        except errors as error:
            raise MalformedModel(f"TensorFlow refuses it: {error}", where=str(self.path)) from error
        if SIGNATURE not in loaded.signatures:
            found = ", ".join(sorted(loaded.signatures)) or "none"
            raise MalformedModel(f"it has no signature {SIGNATURE!r}; it has {found}", where=str(self.path))
        return loaded

    def _ports(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """Return how Python calls each input, and what the file says of the inputs and outputs, in their order."""
        from tensorflow.core.protobuf import saved_model_pb2

        model = saved_model_pb2.SavedModel.FromString((self.path / "saved_model.pb").read_bytes())
        described = next(graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags)
        stated = described.signature_def[SIGNATURE]
        document = read_document(self.path)
        inputs = _in_order(stated.inputs, () if document is None else document.inputs)
        outputs = _in_order(stated.outputs, () if document is None else document.outputs)
        known = self._signature.structured_input_signature[1]
        # Python's arguments are identifiers; the operators that stand for them show how the names were changed.
        changed = {name: info.name.removeprefix(f"{SIGNATURE}_").rpartition(":")[0] for name, info in inputs.items()}
        return {name: name if name in known else changed[name] for name in inputs}, inputs, outputs

    def _arguments(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        constant = self._tensorflow.constant
        return {keyword: constant(np.ascontiguousarray(feeds[name])) for name, keyword in self._keywords.items()}

    def _call(self, function: Any, arguments: Mapping[str, Any]) -> Any:
        try:
            return function(**arguments)
        except (self._tensorflow.errors.OpError, ValueError, TypeError) as error:
            raise MalformedModel(f"TensorFlow can't run it: {error}", where=str(self.path)) from error

    @cached_property
    def _body(self) -> _Body:
        return _Body(self._tensorflow, self._signature)


class _Body:
    """The function that computes a net: the innermost one of those that its signature calls.

    Attributes:
        tensors: the names of everything that it takes and computes.
    """

    def __init__(self, tensorflow: Any, signature: Any) -> None:
        self._tensorflow = tensorflow
        self._signature = signature
        self._graph_def, self._sources = self._innermost()
        graph = tensorflow.Graph()
        with graph.as_default():
            tensorflow.graph_util.import_graph_def(self._graph_def, name="")
        outputs = (tensor for operation in graph.get_operations() for tensor in operation.outputs)
        self.tensors = frozenset(tensor.name for tensor in outputs if tensor.dtype.is_numpy_compatible)

    def giving(self, names: Iterable[str]) -> Any:
        """Return a function of the signature's keywords that gives tensors of the body."""
        import_graph_def = self._tensorflow.graph_util.import_graph_def
        captured = self._signature.captured_inputs
        specs = self._signature.structured_input_signature[1]

        def body(**given: Any) -> list[Any]:
            # TensorFlow orders what a function takes by keyword, and then come the variables that it reads.
            held = [given[keyword] for keyword in sorted(specs)] + [
                self._tensorflow.identity(each) for each in captured
            ]
            passed = dict(zip((tensor.op.name for tensor in self._signature.inputs), held, strict=True))
            arguments = {f"{argument}:0": passed[source] for argument, source in self._sources.items()}
            found: list[Any] = import_graph_def(
                self._graph_def, input_map=arguments, return_elements=list(names), name=""
            )
            return found

        return self._tensorflow.function(body, autograph=False).get_concrete_function(**specs)

    def _innermost(self) -> tuple[Any, dict[str, str]]:
        """Return the function's graph, and for each of its arguments the name of the signature's that it is."""
        # Not public, and unchanged since TensorFlow 1.10: functions spell their graphs in a way of their own.
        from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

        outermost = self._signature.graph.as_graph_def()
        functions = {function.signature.name: function for function in outermost.library.function}
        graph_def, nodes = outermost, outermost.node
        sources = {tensor.op.name: tensor.op.name for tensor in self._signature.inputs}
        while (call := _only_call(nodes)) is not None:
            function = functions[call.attr["f"].func.name]
            given = [name.partition(":")[0] for name in call.input if not name.startswith("^")]
            arguments = [argument.name for argument in function.signature.input_arg]
            sources = {argument: sources[name] for argument, name in zip(arguments, given, strict=True)}
            nodes = function.node_def
            graph_def, _ = function_def_to_graph_def(function)
            graph_def.library.CopyFrom(outermost.library)
        return graph_def, sources


def _only_call(nodes: Iterable[Any]) -> Any:
    """Return the call of a function that does nothing else; None where it computes something."""
    nodes = list(nodes)
    calls = [node for node in nodes if node.op in CALLS]
    return calls[0] if len(calls) == 1 and all(node.op in WRAPPING for node in nodes) else None


def _in_order(described: Mapping[str, Any], ports: Iterable[Port]) -> dict[str, Any]:
    """Order what a signature describes as the document does; signatures themselves have no order."""
    first = [port.name for port in ports if port.name in described]
    return {name: described[name] for name in dict.fromkeys([*first, *sorted(described)])}


def _spec(info: Any) -> TensorSpec:
    """Return what a signature says of an input or output."""
    from tensorflow import dtypes

    shape = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
    return TensorSpec(shape, str(dtypes.as_dtype(info.dtype).name))
