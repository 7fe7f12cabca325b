"""A white page that grows downwards: heading, rows of captioned panels, legend. Text by Pillow, DejaVu Sans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

PAGE_WIDTH: Final = 1920
MARGIN: Final = 40
GAP: Final = 20
CONTENT_WIDTH: Final = PAGE_WIDTH - 2 * MARGIN
PAPER: Final[Color] = (255, 255, 255)
INK: Final[Color] = (28, 32, 40)
SOFT_INK: Final[Color] = (92, 100, 114)
SWATCH_PX: Final = 18


@dataclass(frozen=True)
class Panel:
    """A picture with a caption above it."""

    caption: str
    picture: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class LegendEntry:
    """A name and its colour; a second colour makes a chequered swatch."""

    name: str
    color: Color
    second: Color | None = None


class Page:
    """Collects blocks from top to bottom; `render` puts them on paper."""

    def __init__(self) -> None:
        self._blocks: list[Image.Image] = []

    def add_heading(self, lines: Sequence[str]) -> None:
        """First line large and bold, the others small and soft."""
        block = _paper(44 + 26 * max(0, len(lines) - 1))
        draw = ImageDraw.Draw(block)
        for number, line in enumerate(lines):
            if number == 0:
                draw.text((MARGIN, 0), line, fill=INK, font=_font(bold=True, size_px=30))
            else:
                draw.text((MARGIN, 18 + 26 * number), line, fill=SOFT_INK, font=_font(bold=False, size_px=18))
        self._blocks.append(block)

    def add_row(self, panels: Sequence[Panel]) -> None:
        """Panels side by side, top edges aligned, each below its caption."""
        block = _paper(28 + max((panel.picture.shape[0] for panel in panels), default=0))
        draw = ImageDraw.Draw(block)
        left = MARGIN
        for panel in panels:
            draw.text((left, 0), panel.caption, fill=INK, font=_font(bold=False, size_px=17))
            block.paste(Image.fromarray(panel.picture), (left, 28))
            left += panel.picture.shape[1] + GAP
        self._blocks.append(block)

    def add_legend(self, title: str, entries: Sequence[LegendEntry]) -> None:
        """Title and coloured names, in as many lines as they need."""
        font = _font(bold=False, size_px=17)
        first = MARGIN + 150
        places, left, line = [], first, 0
        for entry in entries:
            width = SWATCH_PX + 8 + round(font.getlength(entry.name))
            if left > first and left + width > PAGE_WIDTH - MARGIN:
                left, line = first, line + 1
            places.append((left, 30 * line))
            left += width + 26
        block = _paper(30 * (line + 1) - 8)
        draw = ImageDraw.Draw(block)
        draw.text((MARGIN, 0), title, fill=INK, font=_font(bold=True, size_px=17))
        for entry, (x, y) in zip(entries, places, strict=True):
            _draw_swatch(draw, entry, x, y + 2)
            draw.text((x + SWATCH_PX + 8, y), entry.name, fill=INK, font=font)
        self._blocks.append(block)

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """The page as RGB, even margins around and gaps between the blocks."""
        height = 2 * MARGIN + sum(block.height for block in self._blocks) + GAP * max(0, len(self._blocks) - 1)
        page = Image.new("RGB", (PAGE_WIDTH, height), PAPER)
        top = MARGIN
        for block in self._blocks:
            page.paste(block, (0, top))
            top += block.height + GAP
        return np.array(page)


def _paper(height_px: int) -> Image.Image:
    return Image.new("RGB", (PAGE_WIDTH, height_px), PAPER)


def _draw_swatch(draw: ImageDraw.ImageDraw, entry: LegendEntry, left: int, top: int) -> None:
    end, half = SWATCH_PX - 1, SWATCH_PX // 2
    draw.rectangle((left, top, left + end, top + end), fill=entry.color)
    if entry.second is not None:
        draw.rectangle((left + half, top, left + end, top + half - 1), fill=entry.second)
        draw.rectangle((left, top + half, left + half - 1, top + end), fill=entry.second)
    draw.rectangle((left, top, left + end, top + end), outline=(150, 156, 166))


@cache
def _font(*, bold: bool, size_px: int) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size_px)
