"""Which operations a SavedModel would run, and what they reach for.

TensorFlow's registry marks operations with state: all that act on something else than
their inputs, be it a variable, a file or another machine. Of them are let through those
known to keep to the memory of the process; of the others, which are functions of their
inputs, all but a few that open files all the same.
"""

import re
from collections.abc import Iterable, Iterator

from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

# Not documented, but as old as TensorFlow. Tried on 2.21.
from tensorflow.python.framework import op_def_registry

PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
"""call back into the Python process that wrote them; TensorFlow registers them, TF
Serving not"""
IN_MEMORY = re.compile(
    r"""
      Case | If | While | StatefulPartitionedCall | DeviceIndex | XlaLaunch | XlaCallModule
    | Assert | CheckNumerics | CheckNumericsV2 | GuaranteeConst | Empty | Print
    | Variable | VariableV2 | VariableShape | TemporaryVariable | VarHandleOp
    | VarIsInitializedOp | ReadVariableOp | Assign(|Add|Sub)VariableOp | Resource\w+
    | DestroyResourceOp | DisableCopyOnRead
    | (Anonymous|Mutable|AnonymousMutable)?(Dense)?HashTable(V2|OfTensors|OfTensorsV2)?
    | LookupTable\w+ | InitializeTable\w*
    | Random\w+ | Stateful\w+ | StatelessRandomGetAlg | Rng\w+ | TruncatedNormal
    | ParameterizedTruncatedNormal | Multinomial | NonDeterministicInts
    | SampleDistortedBoundingBox(V2)? | \w+SeedGenerator
    | (All|LogUniform|Uniform|LearnedUnigram|ThreadUnsafeUnigram)CandidateSampler
    | TensorArray\w* | Stack\w* | (FIFO|PaddingFIFO|Priority|RandomShuffle)?Queue\w*
    | Tensor(Slice)?Dataset | RangeDataset | ShuffleDatasetV[23] | ReduceDataset
    | DatasetToSingleElement | (Anonymous|OneShot)?Iterator(V2|V3)? | IteratorGetNext\w*
    | MakeIterator | DeleteIterator
    | Add(Many)?SparseToTensorsMap | TakeManySparseFromTensorsMap
    | CudnnRNN\w* | BoostedTrees\w+
    """,
    re.VERBOSE,
)
"""with state, and none outside of the process: functions, variables, tables (their
vocabularies are read from files, but go nowhere), random numbers, lists and queues"""
RESTORING = {"Restore", "RestoreSlice", "RestoreV2"}
"""what only the loader may run: to read the variables"""
OPENING = {
    "CacheDataset",
    "DatasetFromGraph",  # runs a graph that comes as text
    "DebugIdentity",
    "DebugNanCount",
    "DebugNumericSummary",
    "DecodeProtoV2",
    "EncodeProto",
    "GenerateVocabRemapping",
    "ImmutableConst",
    "MatchingFiles",
    "ReadFile",
    "RegisterDataset",
    "RegisterDatasetV2",
    "SnapshotChunkDataset",
    "SnapshotDataset",
    "SnapshotDatasetReader",
    "SnapshotDatasetV2",
    "SnapshotNestedDatasetReader",
    "XlaCustomCall",
    "XlaCustomCallV2",
}
"""without state by the registry, though they open files or addresses, or run code that
does not stand in the graph"""


def unknown_to_tf_serving(graph: MetaGraphDef) -> set[str]:
    """The operations of a graph that TensorFlow's own server does not know."""
    library = graph.graph_def.library.function
    used = {node.op for node in graph.graph_def.node}
    used |= {node.op for function in library for node in function.node_def}
    used -= {function.signature.name for function in library}
    return {name for name in used if name in PYTHON or not op_def_registry.get(name)}


def reaching_out(graph: MetaGraphDef) -> set[str]:
    """The operations by which a graph, loaded and asked, would touch files, the network
    or other processes. The saver's own, which write a checkpoint, are never run."""
    asked = {
        info.name
        for signature in graph.signature_def.values()
        for info in signature.outputs.values()
    }
    for collection in ("saved_model_main_op", "legacy_init_op"):
        asked |= set(graph.collection_def[collection].node_list.value)
    run = reached(graph, asked)
    restored = reached(graph, {graph.saver_def.restore_op_name}) - RESTORING
    return {name for name in run | restored if not keeps_to_memory(name)}


def keeps_to_memory(name: str) -> bool:
    definition = op_def_registry.get(name)
    if definition is None or name in OPENING | PYTHON:
        return False
    return not definition.is_stateful or bool(IN_MEMORY.fullmatch(name))


def reached(graph: MetaGraphDef, tensors: Iterable[str]) -> set[str]:
    """The operations that run for the sake of some tensors or nodes, in functions too.

    TensorFlow may put a function that is marked by `api_implements` in the place of
    another: those count as reached.
    """
    functions = {each.signature.name: each for each in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    pending = [nodes[name] for name in map(node_name, tensors) if name in nodes]
    called = {name for name, each in functions.items() if "api_implements" in each.attr}
    for name in called:
        pending += functions[name].node_def
    seen, operations = set(), set()
    while pending:
        node = pending.pop()
        if node.op not in functions or op_def_registry.get(node.op):
            operations.add(node.op)
        for name in map(node_name, node.input):
            # Of a function all nodes are pending already.
            if name in nodes and name not in seen:
                seen.add(name)
                pending.append(nodes[name])
        for name in calls(node, functions) - called:
            called.add(name)
            pending += functions[name].node_def
    return operations


def node_name(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def calls(node: NodeDef, functions: dict[str, FunctionDef]) -> set[str]:
    """The functions that a node calls, by its operation or its attributes."""

    def named() -> Iterator[str]:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (each.name for each in value.list.func)
            # Some attributes name a function as text.
            yield value.s.decode(errors="replace")

    return {name for name in named() if name in functions}
