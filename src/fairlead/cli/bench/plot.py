"""A picture of what was found: bars, with a line from the least to the most. Pure; SVG, which needs no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _NAMES, _ROW, _TOP = 760, 130, 30, 48
_OURS, _OTHERS, _INK = "#2563a8", "#9aa7b4", "#222"


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of it."""

    name: str
    value: float
    least: float
    most: float
    ours: bool = False


def svg(title: str, bars: Sequence[Bar]) -> str:
    """The picture; *title* says what is shown, and in which unit."""
    height = _TOP + _ROW * len(bars) + 12
    scale = (_WIDTH - _NAMES - 90) / (max((bar.most for bar in bars), default=0.0) or 1.0)
    size = f'width="{_WIDTH}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {height}" role="img">',
             f"<title>{escape(title)}</title>",
             f'<rect {size} fill="white"/>', '<g font-family="sans-serif" font-size="13">',
             f'<text x="12" y="26" font-size="15" fill="{_INK}">{escape(title)}</text>']
    for number, bar in enumerate(bars):
        top, middle = _TOP + _ROW * number, _TOP + _ROW * number + 10
        wide, colour = bar.value * scale, _OURS if bar.ours else _OTHERS
        most = _NAMES + bar.most * scale
        parts += [
            f'<text x="{_NAMES - 8}" y="{middle + 5}" text-anchor="end" fill="{_INK}">{escape(bar.name)}</text>',
            f'<rect x="{_NAMES}" y="{top}" width="{wide:.1f}" height="20" fill="{colour}"/>',
            f'<path d="M{_NAMES + bar.least * scale:.1f} {middle}H{most:.1f}" stroke="{_INK}" stroke-width="1.5"/>',
            f'<text x="{most + 6:.1f}" y="{middle + 5}" fill="{_INK}">{bar.value:.0f}</text>']
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"
