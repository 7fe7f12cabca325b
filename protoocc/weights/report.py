"""What published weights filled, what they did not, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from protoocc.config import WeightsConfig
from schemas.settings import Frozen

Part = Literal["backbone", "pyramid", "view transformation", "decoder", "rest"]
"""Parts of ProtoOcc; rest is what other networks have beside them."""

Fate = Literal["missing", "unexpected", "wrong shape"]
"""missing: in the network only; unexpected: in the file only; wrong shape: in both, but unlike."""

_SHOWN = 3


class PartShare(Frozen):
    """How much of one part of the network came from the file; norm statistics count, counters do not."""

    part: Part = Field(description="Part of the network.")
    names: int = Field(description="Tensors of the part.")
    matched: int = Field(description="Tensors that the file filled.")
    values: int = Field(description="Numbers in all tensors of the part.")
    filled: int = Field(description="Numbers that the file filled.")

    @property
    def share(self) -> float:
        """Filled share of the numbers, 0..1."""
        return self.filled / self.values


class Group(Frozen):
    """Names with the same fate."""

    fate: Fate = Field(description="What became of them.")
    reason: str = Field(description="Why.")
    part: Part | None = Field(None, description="Part of the network that misses them; null for names of the file.")
    names: tuple[str, ...] = Field(description="The network's names where missing, the file's elsewhere.")

    def __str__(self) -> str:
        """One line: fate, count, first names, reason."""
        more = f", ... {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        return f"{self.fate}: {', '.join(self.names[:_SHOWN])}{more}: {self.reason}"


class WeightsReport(Frozen):
    """Result of filling a network from a file."""

    record: WeightsConfig = Field(description="The file.")
    parts: tuple[PartShare, ...] = Field(description="Each part of the network.")
    groups: tuple[Group, ...] = Field(description="All names that did not match.")
    is_half: bool = Field(False, description="Whether the file stores numbers in 16 bits; they become 32 bits.")

    def share(self, part: Part) -> float:
        """Filled share of one part, 0..1; 0 for a part that the network does not have."""
        return next((entry.share for entry in self.parts if entry.part == part), 0.0)

    def lines(self) -> list[str]:
        """Lines to print: each part, then what did not match; parts that the file does not touch are one line each."""
        untouched = {entry.part for entry in self.parts if entry.matched == 0}
        stored = ", stored in 16 bits" if self.is_half else ""
        lines = [f"weights: {self.record.file} ({self.record.format}, sha256 {self.record.sha256[:12]}{stored})"]
        for entry in self.parts:
            lines.append(
                f"  {entry.part}: {entry.matched} of {entry.names} names, {100 * entry.share:.1f} % of its values"
            )
        lines += [f"  {group}" for group in self.groups if group.part not in untouched]
        return lines
