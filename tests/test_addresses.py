"""Addresses are read strictly, and a refusal says what is supported."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadAddress
from byzpy_tw.transports import Address
from byzpy_tw.transports.table import parse_address, parse_addresses

_PORTS = st.integers(1, 65535)
_HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True),
)


class ParseTests(SynchronousTestCase):
    @given(_HOSTS, _PORTS)
    def test_text_and_address_are_one(self, host: str, port: int) -> None:
        """Every address is read back from how it is written."""
        address = Address(host, port)
        self.assertEqual(parse_address(str(address)), address)

    @given(st.one_of(st.text(max_size=60), st.text(max_size=40).map("tcp://".__add__)))
    def test_anything_else_is_an_error_with_words(self, text: str) -> None:
        """No text does worse than `BadAddress`, and what is accepted can be dialled."""
        try:
            address = parse_address(text)
        except BadAddress as e:
            self.assertTrue(str(e))
            self.assertLess(len(str(e)), 300)
        else:
            self.assertTrue(address.host)
            self.assertTrue(1 <= address.port <= 65535)
            self.assertFalse(set(address.host) & set("/?#@[] \n"))

    def test_examples(self) -> None:
        """Names, IPv4 and bracketed IPv6 are read; spaces around do not matter."""
        for text, host, port in (
            ("tcp://10.0.0.7:29000", "10.0.0.7", 29000),
            (" tcp://server-1.lan:1\n", "server-1.lan", 1),
            ("tcp://[::1]:65535", "::1", 65535),
            ("tcp://[fe80::1%eth0]:5", "fe80::1%eth0", 5),
        ):
            with self.subTest(text):
                self.assertEqual(parse_address(text), Address(host, port))

    def test_other_schemes_are_refused(self) -> None:
        """A scheme that is not there yet is refused with what is supported."""
        for scheme in ("ucx", "http", "TCP", ""):
            with self.subTest(scheme):
                error = self.assertRaises(BadAddress, parse_address, f"{scheme}://h:1")
                self.assertIn("supported: tcp://HOST:PORT", str(error))
                self.assertIn(repr(scheme), str(error))

    def test_refusals_say_why(self) -> None:
        """Each mistake is named."""
        for text, said in (
            ("10.0.0.7:29000", "no scheme"),
            ("", "no scheme"),
            ("tcp://10.0.0.7", "lacks a host or a port"),
            ("tcp://:29000", "lacks a host or a port"),
            ("tcp://host:", "lacks a host or a port"),
            ("tcp://[::1]", "lacks a host or a port"),
            ("tcp://[]:1", "lacks a host or a port"),
            ("tcp://host:0", "from 1 to 65535"),
            ("tcp://host:65536", "from 1 to 65535"),
            ("tcp://host:999999999999", "from 1 to 65535"),
            ("tcp://host:-1", "from 1 to 65535"),
            ("tcp://host:٣", "from 1 to 65535"),
            ("tcp://host:1/path", "from 1 to 65535"),
            ("tcp://user@host:1", "not a host name"),
            ("tcp://a host:1", "not a host name"),
            ("tcp://::1:29000", "write an IPv6 address as tcp://[::1]:29000"),
            ("tcp://" + "h" * 254 + ":1", "not a host name"),
        ):
            with self.subTest(text):
                self.assertIn(said, str(self.assertRaises(BadAddress, parse_address, text)))

    def test_each_server_once(self) -> None:
        """An address that is listed twice would count one server as two."""
        texts = ("tcp://a:1", "tcp://a:2", "tcp://a:1")
        self.assertEqual(len(parse_addresses(texts[:2])), 2)
        error = self.assertRaises(BadAddress, parse_addresses, texts)
        self.assertIn("tcp://a:1 is listed twice", str(error))
