"""What can be wrong with a search."""

from ghn.errors import GHNError


class SearchError(GHNError, ValueError):
    """An architecture, objective, budget or run of search that cannot be as given."""
