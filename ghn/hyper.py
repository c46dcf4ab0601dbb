"""Hypernet: a trained GHN as its users see it: predict, init, embed."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghn.assign import load
from ghn.errors import CoverageError, GraphError, ModelError
from ghn.graph import ArchGraph, ParamSlot, Uncovered
from ghn.model import GHN, Weights, embedding
from ghn.plan import DecodePlan, decoded, parameter
from ghn.primitives import Primitive
from ghn.stream import PIECE, write_shards
from ghn.tracing import trace

BN_CAVEAT = (
    "Running statistics of batch normalisation are not predicted: evaluate with batch statistics "
    "(`with ghn.batch_statistics(model):`) or pass some training images through the model in train mode first."
)
ALIGN = 16  # numbers: each parameter starts on a 64-byte boundary of the arena


@dataclass(frozen=True)
class Report:
    """What one prediction did.

    predicted: names of the parameters that were predicted. skipped: those that were not, each with its reason.
    num_params: numbers predicted. nodes: size of the graph. seconds, cpu_seconds: by stage, in order; the second is
    what the process spent on all its threads.
    notes: what to know before using the weights.
    """

    predicted: tuple[str, ...]
    skipped: tuple[Uncovered, ...]
    num_params: int
    nodes: int
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        return {
            "predicted": list(self.predicted),
            "skipped": [{"name": u.fqn, "shape": list(u.shape), "reason": u.reason} for u in self.skipped],
            "num_params": self.num_params,
            "nodes": self.nodes,
            "seconds": dict(self.seconds),
            "cpu_seconds": dict(self.cpu_seconds),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {1e3 * s:.0f}" for name, s in self.seconds.items())
        lines = [
            f"{self.num_params:,} numbers in {len(self.predicted)} parameters predicted from {self.nodes} nodes",
            f"milliseconds: {stages}, total {1e3 * sum(self.seconds.values()):.0f}",
        ]
        lines += [f"not predicted: {u.fqn} {list(u.shape)}: {u.reason}" for u in self.skipped]
        return "\n".join([*lines, *self.notes])


class Hypernet:
    """A GHN with what it was trained on.

    card: the training record, as shipped with the checkpoint. image_size: side of its training images in pixels.
    classes: names of its training classes.
    """

    def __init__(self, model: GHN, card: Mapping[str, Any], image_size: int, classes: tuple[str, ...]) -> None:
        self.model = model.eval()
        self.card = dict(card)
        self.image_size = image_size
        self.classes = classes

    def untrained(self, seed: int = 0) -> "Hypernet":
        """The same GHN architecture with random weights, by PyTorch's default initialisation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = GHN(self.model.config)
        return Hypernet(fresh, {"name": "untrained", "seed": seed}, self.image_size, self.classes)

    def predict(
        self,
        model: nn.Module | None = None,
        *,
        graph: ArchGraph | None = None,
        example_input: Any = None,
        strict: bool = True,
    ) -> tuple[Weights, Report]:
        """Parameter name -> new float32 tensor, for every parameter of the model; and a report. Model untouched.

        graph: an earlier `ghn.trace(model)`, which saves most of the time; then no model is needed. GraphError where
        both are given and the graph has parameters that the model has not.
        example_input: what to trace with, where an image of the usual size does not do.
        strict: raise CoverageError where a parameter that the output depends on has no rule. Otherwise it is
        skipped and reported. Raises TraceError where the model cannot be traced.
        """
        clock = _Clock()
        graph = self._graph(model, graph, example_input, strict, clock)
        with clock("writing"):
            out = _arena(graph.slots)
        return out, self._run(graph, out, clock)

    @torch.no_grad()
    def stream(
        self,
        folder: str | Path,
        model: nn.Module | None = None,
        *,
        graph: ArchGraph | None = None,
        example_input: Any = None,
        strict: bool = True,
        shard_bytes: int = 10**9,
        metadata: Mapping[str, str] | None = None,
        progress: Callable[[float], object] = lambda done: None,
    ) -> Report:
        """A report, when every parameter is in the folder, in safetensors files of up to shard_bytes with an index.

        Each tensor is made when it is written, so that memory is needed for the largest one and not for the network,
        which may be on the meta device. metadata: texts for the files' headers. progress: called with the part that has
        been made, from 0 to 1. Raises as `predict`, and GHNError where the disk does not take it.
        """
        clock = _Clock()
        graph = self._graph(model, graph, example_input, strict, clock)
        with clock("propagation"):
            batch = self.model.collate([graph])
            states = self.model.node_states(batch)

        def tensors() -> Iterator[tuple[str, Tensor]]:
            order = {slot.fqn: place for place, slot in enumerate(graph.slots)}
            left = total = sum(slot.numel for slot in graph.slots)
            for plan in DecodePlan.pieces(batch, self.model.decoder, PIECE, parameter):
                with clock("decoding"):
                    (weights,) = self.model.write(plan, self.model.decode(plan, states), 1)
                for name in sorted(weights, key=order.__getitem__):
                    left -= weights[name].numel()
                    progress(1 - left / total)
                    yield name, weights.pop(name)

        with clock("writing"):
            write_shards(Path(folder), graph.slots, tensors(), shard_bytes, metadata or {})
        clock.less("writing", "decoding")
        return _report(graph, clock)

    def init(
        self, model: nn.Module, *, graph: ArchGraph | None = None, example_input: Any = None, strict: bool = True
    ) -> nn.Module:
        """The same model with predicted weights in place of its own.

        Raises as `predict`, and ModelError where a parameter is on the meta device, before any change.
        """
        clock = _Clock()
        graph = self._graph(model, graph, example_input, strict, clock)
        own = dict(model.named_parameters())
        nowhere = next((s.fqn for s in graph.slots if own[s.fqn].is_meta), None)
        if nowhere is not None:
            raise ModelError(
                f"parameter {nowhere!r} is on the meta device, which holds no numbers; build the model on the CPU, "
                "or use `predict`"
            )
        direct = {s.fqn: own[s.fqn].detach() for s in graph.slots if _writable(own[s.fqn])}
        others = _arena([s for s in graph.slots if s.fqn not in direct])
        self._run(graph, direct | others, clock)
        return load(model, others)

    @torch.no_grad()
    def embed(
        self, model: nn.Module | None = None, *, graph: ArchGraph | None = None, example_input: Any = None
    ) -> Tensor:
        """(d,) embedding of the architecture, a model or its graph: the mean of node states. Weights play no part."""
        graph = self._graph(model, graph, example_input, False, _Clock())
        return embedding(self.model.node_states(self.model.collate([graph])))

    def _graph(
        self, model: nn.Module | None, graph: ArchGraph | None, example_input: Any, strict: bool, clock: "_Clock"
    ) -> ArchGraph:
        with clock("graph"):
            if graph is None:
                if model is None:
                    raise ValueError("predict needs a model or a graph")
                graph = trace(model, example_input)
            elif model is not None:
                _require_match(graph, model)
        missing = [u for u in graph.uncovered if u.used]
        if strict and missing:
            names = "; ".join(f"{u.fqn} {list(u.shape)} ({u.reason})" for u in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise CoverageError(
                f"no rule covers {names}{more}. Register the layer, in one call: ghn.register(ItsClass, "
                "{'name of the parameter in it': ghn.Role.SCALE}); or pass strict=False (--partial) to keep their "
                "present values."
            )
        return graph

    @torch.no_grad()
    def _run(self, graph: ArchGraph, out: Weights, clock: "_Clock") -> Report:
        """Predicts into the tensors of `out`."""
        with clock("propagation"):
            batch = self.model.collate([graph])
            states = self.model.node_states(batch)
        for plan in DecodePlan.pieces(batch, self.model.decoder, PIECE, decoded):
            with clock("decoding"):
                blocks = self.model.decode(plan, states)
            with clock("writing"):
                self.model.write(plan, blocks, 1, [out])
        return _report(graph, clock)


def _report(graph: ArchGraph, clock: "_Clock") -> Report:
    has_bn = bool((graph.ops == Primitive.BN).any())
    return Report(
        predicted=tuple(s.fqn for s in graph.slots),
        skipped=graph.uncovered,
        num_params=sum(s.numel for s in graph.slots),
        nodes=len(graph),
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
        notes=(BN_CAVEAT,) if has_bn else (),
    )


def _require_match(graph: ArchGraph, model: nn.Module) -> None:
    own = dict(model.named_parameters())
    for slot in graph.slots:
        shape = tuple(own[slot.fqn].shape) if slot.fqn in own else None
        if shape != slot.shape:
            found = f"has shape {list(shape)} there" if shape is not None else "is not there"
            raise GraphError(
                f"the graph is not that of this {type(model).__name__}: parameter {slot.fqn!r} {list(slot.shape)} "
                f"{found}; trace the model again"
            )


def _writable(parameter: nn.Parameter) -> bool:
    return parameter.dtype == torch.float32 and parameter.device.type == "cpu" and parameter.is_contiguous()


def _arena(slots: "tuple[ParamSlot, ...] | list[ParamSlot]") -> Weights:
    """Uninitialised tensors for the slots, in one allocation.

    numpy asks the kernel for huge pages where torch does not, and the first touch of 100 MB in 4 kB pages costs
    more than predicting what goes there.
    """
    starts = np.cumsum([0] + [-(-s.numel // ALIGN) * ALIGN for s in slots]).tolist()
    arena = torch.from_numpy(np.empty(starts[-1], dtype=np.float32))
    return {s.fqn: arena[a : a + s.numel].view(s.shape) for a, s in zip(starts, slots, strict=False)}


class _Clock:
    """Wall and CPU seconds by stage, in the order of the flow."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("graph", "propagation", "decoding", "writing"), 0.0)
        self.cpu_seconds = dict(self.seconds)

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - wall
            self.cpu_seconds[stage] += time.process_time() - cpu

    def less(self, stage: str, within: str) -> None:
        """Takes what was spent on another stage within this one off it."""
        for spent in (self.seconds, self.cpu_seconds):
            spent[stage] -= spent[within]
