"""What genotypes share: checking a field's value, reading fields from a record, drawing a value."""

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from deepnets_gen.genotype import GenotypeError

T = TypeVar("T")


def check(ok: bool, field: str, value: Any, remedy: str) -> None:
    """Raises GenotypeError, naming the field, its value and what to do, unless ok."""
    if not ok:
        raise GenotypeError(f"{field} is {value!r}; {remedy}")


def check_whole(field: str, value: Any, least: int) -> None:
    """Raises GenotypeError unless the value is an int of at least `least`."""
    check(type(value) is int and value >= least, field, value, f"give a whole number of at least {least}")


def read(record: Mapping[str, Any], fields: Iterable[str], what: str) -> dict[str, Any]:
    """These fields of a record; others are ignored. what: the kind of record, for the message.

    Raises GenotypeError where one is missing.
    """
    if not isinstance(record, Mapping):
        raise GenotypeError(f"not a {what} record: a {type(record).__name__} in place of a mapping")
    fields = tuple(fields)
    missing = [name for name in fields if name not in record]
    if missing:
        raise GenotypeError(f"not a {what} record: it has no {', '.join(missing)}")
    return {name: record[name] for name in fields}


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of the options, each as likely; by `random()` alone, whose numbers no version of Python changes."""
    return options[int(rng.random() * len(options))]


def flip(rng: Random, share: float = 0.5) -> bool:
    """True with this probability."""
    return rng.random() < share
