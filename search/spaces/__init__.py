"""The spaces that can be searched, by name. A new one is a file here and a line in SPACES."""

import importlib

from search.errors import SearchError
from search.space import SearchSpace

SPACES = {  # name -> where its class is, imported when asked for
    "nasbench201": "nasbench201:Nasbench201",
    "macro": "macro:Macro",
    "mnasnet": "mnasnet:MnasNet",
    "darts": "darts:Darts",
    "deepnets": "deepnets:DeepNets",
}


def make_space(name: str, **settings: int) -> SearchSpace:
    """The space of this name. settings: of its class, such as channels. Raises SearchError."""
    if name not in SPACES:
        raise SearchError(f"no search space {name!r}; there are {', '.join(SPACES)}")
    module, _, kind = SPACES[name].partition(":")
    try:
        return getattr(importlib.import_module(f"search.spaces.{module}"), kind)(**settings)
    except TypeError as error:
        raise SearchError(f"the space {name} cannot be made with {settings}: {error}") from error
