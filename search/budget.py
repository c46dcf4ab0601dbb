"""Budget: how much a search may spend, counted by what its evaluators really did."""

import re
from dataclasses import dataclass
from typing import Self

from eval.evaluator import Cost
from search.errors import SearchError

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "images": 1.0}
FORMS = "a number of evaluations such as 300, a time such as 90s, 10m or 2h, or 50000images"


@dataclass(frozen=True)
class Budget:
    """Limits of a search; None: none. evaluations is never exceeded, images and seconds by at most one batch."""

    evaluations: int | None = None
    images: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = [x for x in (self.evaluations, self.images, self.seconds) if x is not None]
        if not limits or min(limits) <= 0:
            raise SearchError(f"a budget needs a limit above 0: {FORMS}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of '300', '10m' or '50000images', or several with commas between. Raises SearchError."""
        limits: dict[str, float] = {}
        for part in text.split(","):
            found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|images|)", part.strip())
            if found is None:
                raise SearchError(f"the budget {text!r} is none; give {FORMS}")
            number, unit = found.groups()
            name = {"": "evaluations", "images": "images"}.get(unit, "seconds")
            limits[name] = float(number) * UNITS[unit] if name == "seconds" else int(float(number))
        return cls(**limits)  # ty: ignore[invalid-argument-type]

    def room(self, spent: Cost, price: int) -> int | None:
        """How many more architectures of this price fit; None: as many as wanted."""
        if self.images is not None and spent.images >= self.images:
            return 0
        if self.seconds is not None and spent.seconds >= self.seconds:
            return 0
        return None if self.evaluations is None else max(0, self.evaluations - spent.evaluations) // price
