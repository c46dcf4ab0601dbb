"""A network as the text of a Python file that needs nothing but torch: layers under their names, and what joins them.

By torch.fx, with torch's own layers as leaves and sizes as numbers, all but that of the batch.
"""

import copy
import inspect
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from search.errors import SearchError

SIGNS: dict[Any, str] = {
    operator.add: "{} + {}",
    operator.mul: "{} * {}",
    operator.sub: "{} - {}",
    operator.getitem: "{}[{}]",
}
HOMES = (("F", F), ("torch", torch))
FILE = '''\
"""{title}

(B, 3, {side}, {side}) -> (B, {classes}) logits. With the weights beside this file:

    model = Network()
    model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))
"""

{imports}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.expected_input_sz = {side}
{layers}

    def forward(self, x):
        at = dict(self.named_modules())
{body}

    def _put(self, name, value):
        """Adds a layer or a parameter at a path of names."""
        *path, last = name.split(".")
        place = self
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place._modules[part]
        setattr(place, last, value)
'''


def source(model: nn.Module, title: str, side: int, classes: int) -> str:
    """The text of a file whose class `Network` computes what the model does in eval mode, with parameters and buffers
    of the same names. Raises SearchError where the model branches on values or calls what has no name in torch."""
    tracer = _Tracer(model, side)
    try:
        graph = tracer.trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise SearchError(f"{type(model).__name__} cannot be written as a plain file: {error}") from error
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    graph.lint()
    body = [f"{node.name} = {_call(node)}" for node in graph.nodes if node.op not in ("placeholder", "output")]
    out = next(node for node in graph.nodes if node.op == "output")
    body.append(f"return {out.args[0]!r}")
    layers = [f'self._put("{name}", {_made(model, name)})' for name in _named(graph)]
    made, run = _block(layers), _block(body)
    return FILE.format(title=title, side=side, classes=classes, imports=_imports(made + run), layers=made, body=run)


class _Tracer(fx.Tracer):
    """Goes into every module that is not one of torch's layers; knows the size of what has been traced."""

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.twin = copy.deepcopy(model).to("meta")
        self.values: dict[fx.Node, Any] = {}
        self.example = torch.zeros(2, 3, side, side, device="meta")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).forward.__module__.startswith("torch.nn.modules") and not isinstance(m, nn.Sequential)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def value(self, node: fx.Node) -> Any:
        """What the node is for an example of two images, without numbers."""
        if node not in self.values:
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self.value)
            self.values[node] = self._evaluated(node, args, kwargs)
        return self.values[node]

    def _evaluated(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self.example
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.twin)
        if node.op == "call_module":
            return self.twin.get_submodule(str(node.target)).forward(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


class _Sized(fx.Proxy):
    """A traced tensor whose sizes are numbers, but for the first, which is traced too."""

    @property
    def shape(self) -> Any:
        tracer = self.tracer
        assert isinstance(tracer, _Tracer)
        value = tracer.value(self.node)
        assert isinstance(value, Tensor)
        return (self.size(0), *value.shape[1:])


def _named(graph: fx.Graph) -> list[str]:
    """Layers and parameters that are used, each once, in their order."""
    return list(dict.fromkeys(str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")))


def _made(model: nn.Module, name: str) -> str:
    """Python that makes a layer, or a parameter, anew."""
    parent, _, last = name.rpartition(".")
    found = getattr(model.get_submodule(parent), last)
    if isinstance(found, Tensor):
        return f"nn.Parameter(torch.zeros({tuple(found.shape)}))"
    kind = next(c for c in type(found).__mro__ if c.__module__.startswith("torch.nn.modules"))
    said = []
    for option in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if option.name in ("device", "dtype") or option.kind is not option.POSITIONAL_OR_KEYWORD:
            continue
        value = getattr(found, option.name)
        value = value is not None if option.name == "bias" else value
        if option.default is option.empty:
            said.append(repr(value))
        elif value != option.default and value != (option.default,) * 2:
            said.append(f"{option.name}={value!r}")
    return f"nn.{kind.__name__}({', '.join(said)})"


def _call(node: fx.Node) -> str:
    args = [repr(a) for a in node.args] + [f"{k}={v!r}" for k, v in node.kwargs.items()]
    if node.op == "get_attr":
        return f'self.get_parameter("{node.target}")'
    if node.op == "call_module":
        return f'at["{node.target}"]({", ".join(args)})'
    if node.op == "call_method":
        return f"{args[0]}.{node.target}({', '.join(args[1:])})"
    if node.target in SIGNS:
        return SIGNS[node.target].format(*args)
    name = getattr(node.target, "__name__", "")
    for home, module in HOMES:
        if getattr(module, name, None) is node.target:
            return f"{home}.{name}({', '.join(args)})"
    raise SearchError(f"{node.target} has no name in torch; the network cannot be written as a plain file")


def _imports(text: str) -> str:
    """Those that the text needs."""
    lines = ["import torch"] if "torch." in text else []
    return "\n".join([*lines, "from torch import nn", *["from torch.nn import functional as F"] * ("F." in text)])


def _block(lines: list[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)
