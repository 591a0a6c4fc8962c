"""The table of transports: the scheme of an address names one.

It is the operator's, on each machine: built-in transports, and those of installed plugins.
"""

from __future__ import annotations

from byzpy_tw.config.server import ServerConfig
from byzpy_tw.errors import BadAddress, ByzpyTwError, ConfigError
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clean, clip
from byzpy_tw.transports.base import ServerAddress, Transport
from byzpy_tw.transports.guarded import PluginTransport
from byzpy_tw.transports.tcp import TCP, Address
from byzpy_tw.transports.tls import TLS

# scheme, class, aliases
BUILTIN: tuple[tuple[str, type[TCP], tuple[str, ...]], ...] = (("tcp", TCP, ()), ("tls", TLS, ()))
_OWN = {scheme: kind for scheme, kind, _ in BUILTIN}


def is_built_in(text: str) -> bool:
    """Return whether the address `text` needs no plugin."""
    return text.strip().partition("://")[0] in _OWN


def find_transport(scheme: str, registry: Registry | None = None) -> Transport:
    """Return the transport of a `scheme`; those of plugins are in `registry`."""
    if scheme in _OWN:
        return _OWN[scheme]()
    assert registry is not None, scheme
    return PluginTransport(registry.make("transport", scheme), registry.owner("transport", scheme))


def parse_address(
    text: str, registry: Registry | None = None, *, listening: bool = False
) -> ServerAddress:
    """Parse an address; raises `BadAddress` with the mistake and the supported forms."""
    quoted = repr(clip(text))
    scheme, separator, _ = text.strip().partition("://")
    if not separator:
        raise BadAddress(f"{quoted} has no scheme: write {TCP.form}")
    if scheme not in _OWN and (registry is None or scheme not in registry.names["transport"]):
        raise _unknown(quoted, scheme, registry)
    return find_transport(scheme, registry).parse(text, listening=listening)


def _unknown(quoted: str, scheme: str, registry: Registry | None) -> ByzpyTwError:
    forms = {name: kind.form for name, kind in _OWN.items()}
    if registry is not None:
        for entry in registry.entries():
            if entry.kind == "transport":
                form = getattr(entry.factory, "form", None)
                known = clean(form, 100) if isinstance(form, str) else ""
                forms[entry.name] = known or f"{entry.name}://..."
    text = (
        f"{quoted}: the scheme {clip(scheme, 20)!r} is not supported"
        f"{suggest_nearest(scheme, forms)} (supported: {', '.join(forms.values())})"
    )
    broken = registry.broken if registry is not None else ()
    return BadAddress("; ".join([text, *(one.text for one in broken)]))


def parse_addresses(
    texts: tuple[str, ...], registry: Registry | None = None
) -> tuple[ServerAddress, ...]:
    """Parse all of `texts`; raises `BadAddress` for an address that is listed twice."""
    addresses = tuple(parse_address(text, registry) for text in texts)
    for i, address in enumerate(addresses):
        if address in addresses[:i]:
            raise BadAddress(f"{address} is listed twice")
    return addresses


def listening_address(
    config: ServerConfig, registry: Registry | None = None
) -> tuple[ServerAddress, Transport]:
    """Return where a server is to listen, and the transport that does it."""
    address: ServerAddress = Address(config.host, config.port)
    if config.listen is not None:
        address = parse_address(config.listen, registry, listening=True)
    return address, find_transport(address.scheme, registry)


def check_keys(address: ServerAddress, transport: Transport, keys: object) -> None:
    """Raise `ConfigError` for an address that needs keys, where this end has none."""
    if transport.requires_keys and keys is None:
        raise ConfigError(
            f"{address}: {address.scheme}:// is for servers and trainers with keys, and --keys "
            "is missing"
        )
