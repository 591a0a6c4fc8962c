"""NAME:key=value is read, and written, in one way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import (
    BadParameter,
)
from byzpy_tw.plugins import ParsedName, parse
from tests.plugin_harness import VALUE

WORD = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
KEY = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,63}", fullmatch=True)
NAMED = st.builds(ParsedName, WORD, st.dictionaries(KEY, VALUE, max_size=32))
# Text that is nearly right, and text that is nothing at all.
GARBAGE = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="ab1:=,.-_ /\\\n\0é", max_size=60),
    NAMED.map(lambda named: named.text + "," + named.text),
)


class NamingTests(SynchronousTestCase):
    @given(NAMED)
    @settings(deadline=None)
    def test_round_trip(self, named: ParsedName) -> None:
        """A name that is written out reads back the same."""
        self.assertEqual(parse(named.text), named)

    @given(GARBAGE)
    @settings(deadline=None, max_examples=400)
    def test_garbage_is_refused_in_words(self, text: str) -> None:
        """Whatever comes, it is read or refused with a short message."""
        try:
            named = parse(text)
        except BadParameter as e:
            self.assertLess(len(str(e)), 1000)
        else:
            self.assertEqual(parse(named.text), named)

    def test_one_spelling(self) -> None:
        """Order, spaces and hyphens in keys do not matter."""
        written = parse(" krum: q = 2 ,chunk-size=8")
        self.assertEqual(written, parse("krum:chunk_size=8,q=2"))
        self.assertEqual(written.text, "krum:chunk_size=8,q=2")

    def test_no_paths_no_code(self) -> None:
        """Values are numbers and single words."""
        for value in ("../x", "/etc/passwd", ".hidden", "a b", "f()", "a;b", "", "x" * 65):
            with self.assertRaisesRegex(BadParameter, "not key=value"):
                parse(f"leaves:root={value}")

    def test_says_what_is_wrong(self) -> None:
        """The message quotes the part that does not read."""
        for text, why in (
            ("", "is not a name"),
            ("k rum", "is not a name; write NAME or NAME:key=value,key=value$"),
            ("data/ours.npz", "no path .a file of the data root is named, as in arrays:name=NAME"),
            ("krum:", "'' is not key=value"),
            ("krum:q", "'q' is not key=value"),
            ("krum:q=1,q=2", "'q' is given twice"),
            ("krum:" + ",".join(f"k{i}=1" for i in range(33)), "33 parameters"),
        ):
            with self.assertRaisesRegex(BadParameter, why):
                parse(text)
