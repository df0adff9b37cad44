"""What asking took, in questions, tokens, money and time. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Usage:
    """What asking took. Usages add up with `+`, and what came since one is had with `-`.

    asked: questions that the endpoint got, once each however often they were tried. cached: answered without asking,
    from before or because an equal question was asked. failed: questions without a reply, by the kind of `Failed`.
    tokens_in, tokens_out: as the server counts, estimated where it does not; where it may have worked for nothing, as
    at a timeout, the most it can have taken. money: by the endpoint's prices. seconds: on the wall.
    """

    asked: int = 0
    cached: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        failed = {kind: self.failed.get(kind, 0) + other.failed.get(kind, 0)
                  for kind in dict.fromkeys([*self.failed, *other.failed])}
        return Usage(
            self.asked + other.asked, self.cached + other.cached, failed, self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out, self.money + other.money, self.seconds + other.seconds,
        )

    def __sub__(self, before: "Usage") -> "Usage":
        failed = {kind: count - before.failed.get(kind, 0) for kind, count in self.failed.items()}
        return Usage(
            self.asked - before.asked, self.cached - before.cached,
            {kind: count for kind, count in failed.items() if count}, self.tokens_in - before.tokens_in,
            self.tokens_out - before.tokens_out, self.money - before.money, self.seconds - before.seconds,
        )
