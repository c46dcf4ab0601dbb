"""Random search: what every other strategy has to beat. Over neighbourhood means it is NA-RS, over NASWOT's score
NASWOT's search (Mellor et al. 2021, algorithm 1)."""

from collections.abc import Mapping
from typing import Any

from eval.evaluator import Arch
from search.strategy import Strategy


class RandomSearch(Strategy):
    """Independent samples, with repetition."""

    single = False

    def ask(self, n: int) -> list[Arch]:
        return [self.space.sample(self._rng(self.told + place)) for place in range(n)]

    def _take(self, arch: Arch, values: tuple[float, ...] | None) -> None:
        pass

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: Mapping[str, Any]) -> None:
        pass
