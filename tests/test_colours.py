"""The colours of the pages and of pictures: their contrast, and that no others are used."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.records.schema import STATES
from byzpy_tw.report.curves import COLOURS
from byzpy_tw.report.html import page_colours, read_asset
from byzpy_tw.sweep.colours import cell_style, luminance

THEMES = ("light", "dark")
SURFACES = ("back", "card")
STYLES = ("curves.css", "page.css")
TEXT, GRAPHICS = 4.5, 3.0  # WCAG 2, criteria 1.4.3 and 1.4.11


def contrast(one: str, other: str) -> float:
    """Return the ratio, from 1 to 21, of two colours as #rrggbb or #rgb."""
    lights = []
    for text in (one, other):
        digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
        red, green, blue = bytes.fromhex(digits)
        lights.append(luminance((red, green, blue)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


class ContrastTests(SynchronousTestCase):
    def check(self, least: float, *pairs: tuple[str, str]) -> None:
        self.assertTrue(pairs)
        for theme in THEMES:
            colours = page_colours(theme)
            for one, other in pairs:
                found = contrast(colours[one], colours[other])
                self.assertGreaterEqual(found, least, f"{theme}: {one} on {other}")

    def test_known_ratios(self) -> None:
        """The extremes, and a pair that WebAIM's checker gives too."""
        self.assertAlmostEqual(contrast("#000", "#ffffff"), 21)
        self.assertAlmostEqual(contrast("#abc", "#aabbcc"), 1)
        self.assertAlmostEqual(contrast("#777777", "#ffffff"), 4.48, 2)

    def test_text(self) -> None:
        """Every colour that a stylesheet gives to text is read on every surface."""
        css = "".join(map(read_asset, STYLES))
        used = set(re.findall(r"(?<![-\w])color: var\(--([\w-]+)\)", css))
        self.assertEqual(used, {"ink", "soft", "accent", "bad", "good"})
        self.check(TEXT, *((text, on) for text in used for on in SURFACES))

    def test_lines(self) -> None:
        """Lines of charts, lamps and focus stand out from their surface, bars from theirs."""
        lines = [*(f"c{i}" for i in range(COLOURS)), "accent", "good", "soft"]
        self.check(GRAPHICS, *((line, on) for line in lines for on in SURFACES))
        self.check(GRAPHICS, ("c0", "rule"), ("c1", "rule"))

    def test_areas(self) -> None:
        """Phases of a round stand out from their surface, and from the one on top of them."""
        names = [f"p{i}" for i in range(COLOURS)]
        self.check(GRAPHICS, *((name, "card") for name in names))
        self.check(GRAPHICS, *zip(names, [*names[1:], names[0]], strict=True))

    def test_states(self) -> None:
        """Cells of a strip stand out from its surface, which is also the rim between them, and
        what the rule excluded from what it selected."""
        seen = [state for state in STATES if state != "not-asked"]
        self.check(GRAPHICS, *((state, on) for state in seen for on in SURFACES))
        self.check(GRAPHICS, ("excluded", "selected"), ("lost", "selected"))
        self.assertIn(".cell:not(.s-selected) { stroke: var(--card)", read_asset("page.css"))

    def test_cells_of_a_sweep(self) -> None:
        """Their figures can be read in the colour of every score."""
        for score in range(101):
            style = re.fullmatch(r"background:(#\w+);color:(#\w+)", cell_style(score / 100))
            assert style is not None
            self.assertGreaterEqual(contrast(*style.groups()), TEXT, score)


class OnePlaceTests(SynchronousTestCase):
    def test_every_colour_has_a_name(self) -> None:
        """Stylesheets and scripts name colours, and every name that is used there is one."""
        for name in (*STYLES, "curves.js", "run.js", "sweep.js"):
            text = read_asset(name)
            self.assertEqual(re.findall(r"#(?:[0-9a-f]{3}){1,2}\b(?!\w)", text), [], name)
            names = set(re.findall(r"var\(--([\w-]+)", text)) - {"c", "edge"}
            self.assertEqual(names - set(page_colours()), set(), name)

    def test_of_both_themes(self) -> None:
        """Each colour has a light and a dark value, and is there once."""
        names = re.findall(r"--([\w-]+):", read_asset("colours.css"))
        self.assertEqual(sorted(names), sorted(page_colours("dark")))
        self.assertEqual(len(names), len(set(names)))

    def test_pictures_have_the_same(self) -> None:
        """A PNG's lines and states are those of the light page."""
        try:
            from matplotlib.colors import to_hex
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            self.skipTest("matplotlib is not installed")
        from byzpy_tw.report.png import _curves, _strips
        from tests.recorded_runs import run_report

        run, colours = run_report().plain(), page_colours("light")
        axes = Figure().subplots(1, 2)
        line = {"name": "a", "mark": "c3", "dash": 3, "width": 1, "mean": [1.0, 2.0]}
        rounds = run["rounds"]
        _curves(axes[0], {"title": "t", "rounds": rounds, "series": [line]})
        self.assertEqual(to_hex(axes[0].lines[0].get_color()), colours["c3"])
        _strips(axes[1], rounds, run["nodes"])
        cells = axes[1].images[0].cmap.colors
        self.assertEqual([to_hex(each) for each in cells], [colours[state] for state in STATES])
