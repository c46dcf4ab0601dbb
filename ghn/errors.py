"""The errors that a user can cause. Each message says what was given, where, and what to do next."""


class GHNError(Exception):
    """Base of all errors that are the input's fault; the command line shows it in one line, exit code 2."""


class GraphError(GHNError, ValueError):
    """An ArchGraph that breaks one of its invariants."""


class TraceError(GHNError):
    """A module whose computation could not be recorded."""


class CoverageError(GHNError):
    """A parameter that no rule covers."""


class CheckpointError(GHNError):
    """A checkpoint that is missing, damaged, or of another version."""


class TrainingError(GHNError):
    """A run that can learn nothing any more."""


class ModelError(GHNError):
    """A model name that resolves to nothing, or a model that cannot run as asked."""


class DataError(GHNError):
    """Images or tables that are missing or damaged."""
