"""To and from other people's graph types and model collections; each optional package is imported in one file here."""

from ghn.errors import GHNError


class MissingExtraError(GHNError, ImportError):
    """An optional package that is not installed, or does not import as it is."""
