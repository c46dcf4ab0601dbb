"""Networks by name: from torchvision, timm, transformers, registered zoos, or a function of the user's own.

The only file that imports the first three. Networks for prediction are built on the meta device: only shapes matter.
"""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ghn._compat import import_torchvision
from ghn.adapters import MissingExtraError
from ghn.errors import GHNError, ModelError
from ghn.stem import SMALL, adjust_stem, has_rule

GROUP = "ghn.models"  # entry points: prefix -> callable(rest, num_classes, image_size, device)
PIP = {
    "torchvision": "pip install 'ghn-predict[models]'",
    "timm": "pip install 'ghn-predict[zoo]'",
    "transformers": "pip install 'ghn-predict[zoo]'",
}
OWN = 224  # pixels: the side that most networks are made for
FRAMES = 16  # of a video
_SIDES = {"inception_v3": 299, "ssd300_vgg16": 300}  # too deep for less
_PARTS = ("segmentation", "detection", "video")  # of torchvision.models, beside classification
COMMON = (
    "resnet",
    "convnext",
    "vit",
    "swin",
    "deit",
    "beit",
    "clip/AutoModel",
    "bert/AutoModelForMaskedLM",
    "bert",
    "roberta",
    "distilbert",
    "t5/AutoModelForSeq2SeqLM",
    "gpt2/AutoModelForCausalLM",
    "llama/AutoModelForCausalLM",
    "mistral/AutoModelForCausalLM",
    "mixtral/AutoModelForCausalLM",
    "mamba/AutoModelForCausalLM",
    "dinov2",
    "siglip/AutoModel",
    "albert",
    "electra",
    "deberta-v2",
    "bart/AutoModelForSeq2SeqLM",
    "whisper/AutoModel",
    "wav2vec2/AutoModel",
    "qwen3/AutoModelForCausalLM",
    "gemma2/AutoModelForCausalLM",
    "mamba2/AutoModelForCausalLM",
    "segformer",
    "detr/AutoModel",
)
Build = Callable[[], nn.Module]


def resolve(name: str, num_classes: int, image_size: int | None, device: str = "meta") -> nn.Module:
    """The network of this name, for images of this side, with its own initialisation where the device holds numbers.

    name: 'torchvision/NAME', 'timm/NAME', 'transformers/TYPE' for what TYPE is mostly used for, 'transformers/TYPE/
    AutoModelForMaskedLM' for another of its networks, or 'transformers/CONFIG.json' for one in sizes of its own,
    'PREFIX/...' of an entry point in `ghn.models`, a bare
    NAME (looked for in torchvision, then timm), or 'package.module:factory' or 'FILE.py:factory', whose function is
    called with those of `num_classes` and `image_size` that it accepts. image_size: None for the network's own. The
    stems of torchvision's networks, made for 224 pixels, are adjusted for small images; of its detectors only the
    backbone comes.
    device: 'meta' or 'cpu'; networks that cannot be built on meta come with their buffers, or wholly, on the CPU.
    Raises ModelError where nothing has that name or building it
    fails, MissingExtraError where the library is not installed.
    """
    model, library = _find(name, num_classes, image_size, device)
    # Not timm's: the same class names, and modules of the same names, stand for networks that are built otherwise.
    if library == "torchvision" and (image_size or OWN) <= SMALL and has_rule(model):
        adjust_stem(model, image_size or OWN)
    if not hasattr(model, "expected_input_sz"):  # what the tracer goes by; the network may know better
        model.expected_input_sz = image_size or OWN
    return model


def catalogue(library: str, every: bool = False) -> list[str]:
    """Names, for `resolve`, of the networks of this library: all of torchvision's; one of each of timm's families, or
    every one; of transformers' the most used. Raises MissingExtraError where it is not installed.
    """
    if library not in _PUBLISHED:
        raise ModelError(f"no library {library!r}; known are {', '.join(_PUBLISHED)}")
    _require(library, library)
    if library == "timm" and not every:
        import_torchvision()
        timm = importlib.import_module("timm")
        names = [next(iter(timm.list_models(module=family)), None) for family in timm.list_modules()]
        names = sorted({name for name in names if name})
    else:
        names = list(COMMON) if library == "transformers" else _names(library)
    return [f"{library}/{name}" for name in names]


def example_input(model: nn.Module) -> Any:
    """What to trace this network with where an image does not do; None where it does.

    Networks of transformers say what they read: token ids, of the decoder too where there are two parts, images,
    sound. Each gets the smallest example that every network of its kind takes.
    """
    main, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    if main in (None, "pixel_values") or config is None:
        return None
    read = inspect.signature(model.forward).parameters
    modalities = getattr(model, "input_modalities", ())
    wanted = {
        "input_ids": main == "input_ids",
        "decoder_input_ids": getattr(config, "is_encoder_decoder", False),
        "pixel_values": "image" in modalities,
        "input_features": main == "input_features",
        "input_values": main == "input_values",
    }
    return {name: _EXAMPLES[name](config) for name, is_wanted in wanted.items() if is_wanted and name in read}


def _tokens(config: Any) -> torch.Tensor:
    ids = torch.ones(1, 8, dtype=torch.long)
    end = getattr(getattr(config, "text_config", config), "eos_token_id", None)
    ids[:, -1] = end if isinstance(end, int) else 0  # some classify by the state there
    return ids


def _pixels(config: Any) -> torch.Tensor:
    vision = getattr(config, "vision_config", config)
    side = vision.image_size
    return torch.zeros(1, getattr(vision, "num_channels", 3), *((side, side) if isinstance(side, int) else side))


def _spectrum(config: Any) -> torch.Tensor:
    return torch.zeros(1, config.num_mel_bins, 2 * getattr(config, "max_source_positions", 1500))


_EXAMPLES: dict[str, Callable[[Any], torch.Tensor]] = {
    "input_ids": _tokens,
    "decoder_input_ids": _tokens,
    "pixel_values": _pixels,
    "input_features": _spectrum,
    "input_values": lambda config: torch.zeros(1, 16000),  # a second of sound
}


def _find(name: str, num_classes: int, image_size: int | None, device: str) -> tuple[nn.Module, str | None]:
    """The network, and the library that it is from."""
    if ":" in name:
        return _from_factory(name, num_classes, image_size, device), None
    prefix, _, rest = name.partition("/")
    if not rest:
        prefix, rest = _owner(name), name
    if prefix in _PUBLISHED:
        _require(prefix, name)
        build = _PUBLISHED[prefix](rest, num_classes, image_size)
        return _built(name, build, num_classes, image_size, device), prefix
    for entry in _registered():
        if entry.name == prefix:
            try:
                return entry.load()(rest, num_classes, image_size or OWN, device), None
            except ModelError:
                raise
            except GHNError as error:
                raise ModelError(f"{name} cannot be built {_for(num_classes, image_size)}: {error}") from error
    raise ModelError(f"no model {name!r}: {prefix!r} is none of {', '.join([*_PUBLISHED, *_prefixes()])}")


def _owner(name: str) -> str:
    """The library that knows this bare name, torchvision first."""
    for library in ("torchvision", "timm"):
        if installed(library) and name in _names(library):
            return library
    raise _unknown(name, ("torchvision", "timm"))


def _unknown(name: str, libraries: tuple[str, ...]) -> ModelError:
    known = [n for library in libraries if installed(library) for n in _names(library)]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    hint = f"; similar: {', '.join(near)}" if near else ""
    absent = [f"{x} is not installed ({PIP[x]})" for x in libraries if not installed(x)]
    forms = "" if near else "; your own network is given as 'package.module:factory' or 'FILE.py:factory'"
    where = f" in {libraries[0]}" if len(libraries) == 1 else ""
    return ModelError(f"no model {name!r}{where}{hint}{forms}" + "".join(f"; {a}" for a in absent))


def _torchvision(name: str, num_classes: int, image_size: int | None) -> Build:
    models = import_torchvision().models
    if name not in _names("torchvision"):
        raise _unknown(name, ("torchvision",))
    side = image_size or _SIDES.get(name, OWN)
    options: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith("vit_"):
        options["image_size"] = side
    elif name.startswith("maxvit"):
        options["input_size"] = (side, side)
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # theirs draws from scipy for a minute
    task = models.get_model_builder(name).__module__.split(".")[2]
    if task in ("detection", "segmentation"):
        options["weights_backbone"] = None

    def build() -> nn.Module:
        model = models.get_model(name, weights=None, **options)
        model = model.backbone if task == "detection" else model
        model.expected_input_sz = (3, FRAMES, side, side) if task == "video" else side
        return model

    return build


def _timm(name: str, num_classes: int, image_size: int | None) -> Build:
    import_torchvision()  # timm imports it too, and that fails on a CPU build of torch
    timm = importlib.import_module("timm")
    if name.split(".")[0] not in _names("timm"):
        raise _unknown(name, ("timm",))

    def build() -> nn.Module:
        if image_size is not None:
            try:
                return timm.create_model(name, num_classes=num_classes, img_size=image_size)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
        model: Any = timm.create_model(name, num_classes=num_classes)
        if image_size is None:
            model.expected_input_sz = model.default_cfg["input_size"]
        return model

    return build


def transformer(name: str, **config: Any) -> nn.Module:
    """The network of this name in transformers, as 'TYPE' or 'TYPE/AutoModelForCausalLM', on the meta device.

    config: what its configuration has otherwise than by default, such as num_hidden_layers. Raises ModelError.
    """
    _require("transformers", name)
    return _built(f"transformers/{name}", _from_config(name, config), 0, None, "meta")


def _transformers(name: str, num_classes: int, image_size: int | None) -> Build:
    return _from_config(name, {"num_labels": num_classes}, image_size)


def _from_config(name: str, options: dict[str, Any], image_size: int | None = None) -> Build:
    if installed("torchvision"):
        import_torchvision()
    library = importlib.import_module("transformers")
    if name.endswith(".json"):
        return _configured(library, name)
    known = importlib.import_module("transformers.models.auto.modeling_auto")
    kind, _, auto = name.partition("/")
    try:
        config = library.AutoConfig.for_model(kind, **options)
    except (ValueError, KeyError) as error:
        raise _unknown(kind, ("transformers",)) from error
    if auto and not hasattr(library, auto):
        raise ModelError(f"transformers has no {auto!r}; give one of its AutoModel classes, as AutoModelForMaskedLM")
    config.architectures = config.architectures or []  # read where a type has several networks for a task
    for part in (config, getattr(config, "vision_config", None)):
        if image_size is not None and hasattr(part, "image_size"):
            part.image_size = image_size
    for task, mapping in (
        ("ImageClassification", known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
        ("SequenceClassification", known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
        ("CausalLM", known.MODEL_FOR_CAUSAL_LM_MAPPING),
    ):
        if not auto and type(config) in mapping:
            auto = f"AutoModelFor{task}"
    return lambda: getattr(library, auto or "AutoModel").from_config(config)


def _configured(library: ModuleType, file: str) -> Build:
    """The network that a config.json of transformers describes, in the sizes that it gives."""
    try:
        config = library.AutoConfig.from_pretrained(file, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{file} is no config.json of transformers: {_text(error)}") from error
    named = (getattr(config, "architectures", None) or [None])[0]
    if named is None:
        return lambda: library.AutoModel.from_config(config)
    if not hasattr(library, named):
        raise ModelError(f"{file} names the architecture {named!r}, which this transformers does not have")
    return lambda: getattr(library, named)(config)


_PUBLISHED: dict[str, Callable[[str, int, int | None], Build]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}


def _names(library: str) -> list[str]:
    """Every network that this installed library offers."""
    if installed("torchvision"):
        models = import_torchvision().models
        if library == "torchvision":
            return sorted(n for part in ("", *_PARTS) for n in models.list_models(module=_part(models, part)))
    if library == "timm":
        return importlib.import_module("timm").list_models()
    return sorted(importlib.import_module("transformers").CONFIG_MAPPING)


def _part(models: ModuleType, name: str) -> ModuleType:
    return getattr(models, name) if name else models


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _require(library: str, name: str) -> None:
    if not installed(library):
        raise MissingExtraError(f"{name} needs {library}, which is not installed: {PIP[library]}")


def _registered() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda e: e.name)


def _prefixes() -> list[str]:
    return [e.name for e in _registered()]


def _from_factory(name: str, num_classes: int, image_size: int | None, device: str) -> nn.Module:
    with _current_directory():
        factory = _load_factory(name)
        accepted = _accepted(factory, {"num_classes": num_classes, "image_size": image_size or OWN})
        return _built(name, lambda: factory(**accepted), num_classes, image_size, device)


def _load_factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not attribute or not module_name or module_name.startswith("."):
        raise ModelError(f"no model {name!r}: give 'package.module:factory' or 'FILE.py:factory'")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = _mended(lambda: _module(module_name))
    except (Exception, SystemExit) as error:  # whatever the user's own file raises
        raise ModelError(f"{name}: importing {module_name!r} failed: {_text(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{name}: {module_name!r} has no {attribute!r}{_near(attribute, found)}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise ModelError(f"{name} is {_article(type(found).__name__)}; give a function that returns a torch.nn.Module")
    return found


def _module(name: str) -> ModuleType:
    """The module of this name, or of this file."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(os.path.basename(name).removesuffix(".py"), name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _near(attribute: str, module: ModuleType) -> str:
    near = difflib.get_close_matches(attribute, [n for n in dir(module) if not n.startswith("_")], n=3)
    return f"; similar: {', '.join(near)}" if near else ""


def _accepted(factory: Callable[..., Any], options: dict[str, int]) -> dict[str, int]:
    """Those of the options that the factory names among its parameters; all if it takes any keyword."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    by_name = {n for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return {k: v for k, v in options.items() if k in by_name}


def _built(name: str, build: Build, num_classes: int, image_size: int | None, device: str) -> nn.Module:
    """What the builder returns, with as little memory as it goes along with. The last attempt's error counts."""
    attempts: list[AbstractContextManager[Any]] = [torch.device("cpu")]
    if device == "meta":
        attempts = [torch.device("meta"), _ParametersOnMeta(), *attempts]
    for last, attempt in zip([False] * (len(attempts) - 1) + [True], attempts, strict=True):
        try:
            with attempt, contextlib.redirect_stdout(sys.stderr):
                model = _mended(build)
            break
        except (Exception, SystemExit) as error:  # builders, and users' own above all, raise anything
            if last:
                raise ModelError(f"{name} cannot be built {_for(num_classes, image_size)}: {_text(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {_article(type(model).__name__)}; it must return a torch.nn.Module")
    return model


def _mended(call: Callable[[], Any]) -> Any:
    """What the call returns; if it imports torchvision and that fails for want of our shim, what it returns with it."""
    try:
        return call()
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import_torchvision()
    return call()


class _ParametersOnMeta(TorchFunctionMode):
    """Within the block, what torch.empty makes (layers' parameters, before initialisation) holds no memory.

    For constructors that compute with tensors, as torchvision's RegNets do, and so fail wholly on meta.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextlib.contextmanager
def _current_directory() -> Generator[None, None, None]:
    """Within the block, modules in the current directory can be imported, first of all, as with `python -m`."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _for(num_classes: int, image_size: int | None) -> str:
    return f"for {num_classes} classes" + (f" and {image_size} pixels" if image_size else "")


def _text(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
