"""``twistd byzpy-server``, as a tap module of Twisted: its options, and the service they make."""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from attrs import evolve
from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage

import byzpy_tw
from byzpy_tw.config.server import ServerConfig, server_config, server_options
from byzpy_tw.console import make_streams_tolerant
from byzpy_tw.errors import ByzpyTwError, ConfigError, format_error
from byzpy_tw.text import printable

if TYPE_CHECKING:
    from byzpy_tw.plugins import Registry
    from byzpy_tw.plugins.plugin_files import PluginFile
    from byzpy_tw.server.reload import Reload


def _parameter(key: str, option: Any) -> list[Any]:
    """Return the entry of ``optParameters``, with a function that reads a number."""
    entry = [key, None, option.default, option.metadata["help"]]
    kind = {"int": int, "float": float}.get(option.type.partition(" ")[0])
    if kind is None:
        return entry

    def read(text: str) -> Any:
        with suppress(ValueError):
            return kind(text)
        return text  # which `ServerConfig` refuses

    bounds = option.metadata["constraint"](object()) or ""
    read.coerceDoc = f"{bounds[:1].upper()}{bounds[1:]}."  # type: ignore[attr-defined]  # twisted's
    if option.default is None:  # else the default stands between the two sentences
        entry[3] = entry[3].rstrip(".")
    return [*entry, read]


class Options(usage.Options):
    """The options of `ServerConfig`, read from a command line."""

    synopsis = "[options]"
    longdesc = (
        "Host nodes of Byzantine-robust training runs. With --keys, trainers with keys of "
        "the same cluster are served, wherever they are. Without, only trainers on this "
        "machine are (protected mode), or with --insecure any."
    )
    optParameters = [
        _parameter(key, option)
        for key, option in server_options()
        if not isinstance(option.default, (bool, tuple))
    ]
    optFlags = [
        [key, None, option.metadata["help"]]
        for key, option in server_options()
        if isinstance(option.default, bool)
    ]
    compData = usage.Completions(
        optActions={"data-root": usage.CompleteDirs(), "keys": usage.CompleteFiles("*.pem")}
    )
    config: ServerConfig  # with paths, and plugins' names, as they are here
    loaded_keys: Any = None  # read from --keys

    files: tuple[PluginFile, ...] = ()  # of --plugin, as they were read
    registry: Registry | None = None  # loaded for these or a foreign scheme

    def __init__(self) -> None:
        super().__init__()
        self["disable-plugin"] = self["plugin"] = ()

    def opt_disable_plugin(self, name: str) -> None:
        self["disable-plugin"] += (name,)

    def opt_plugin(self, path: str) -> None:
        self["plugin"] += (path,)

    opt_disable_plugin.__doc__ = dict(server_options())["disable-plugin"].metadata["help"]
    opt_plugin.__doc__ = dict(server_options())["plugin"].metadata["help"]

    def opt_version(self) -> None:
        """Display byzpy_tw's version and exit."""
        print(f"byzpy_tw {byzpy_tw.__version__}")
        sys.exit()

    def parseOptions(self, options: Any = None) -> None:
        """Read the options; twistd ends with one line where they are wrong, and no help."""
        try:
            super().parseOptions(options)
        except usage.UsageError as e:
            if self.parent is None:
                raise
            unread = isinstance(e.__context__, getopt.error)
            more = "; see twistd byzpy-server --help" if unread else ""
            raise SystemExit(_error_line(f"{e}{more}")) from None

    def postOptions(self) -> None:
        from byzpy_tw.config.paths import absolute
        from byzpy_tw.plugins.distributions import check_disabled

        try:
            flags = {name: bool(self[name]) for name, *_ in self.optFlags}
            config = server_config({**self, **flags})
            if config.keys is not None:
                from byzpy_tw.protocol.keys import SERVER, load_keys

                self.loaded_keys = load_keys(absolute(config.keys), SERVER)
            if config.device != "cpu":  # torch is needed only then
                from byzpy_tw.workers.device import check_device

                check_device(config.device)
            self.config = evolve(
                config,
                data_root=str(absolute(config.data_root)),
                disable_plugin=check_disabled(config.disable_plugin),
            )
            self._load_plugins()
            self._check_address(self.config, self.registry)
            _check_metrics(config.metrics)
            _check_descriptor(config.announce_fd)
        except ByzpyTwError as e:
            raise usage.UsageError(format_error(e)) from None

    def _load_plugins(self) -> None:
        """Load plugins where they are needed at once: the files named, and a foreign scheme's.

        With ``--uid`` files are read now, and run once privileges are given up.
        """
        from byzpy_tw.plugins.plugin_files import read_plugin_files
        from byzpy_tw.transports.table import is_built_in

        config = self.config
        self.files = read_plugin_files(config.plugin)
        drops = self.parent is not None and bool(self.parent.get("uid"))
        foreign = config.listen is not None and not is_built_in(config.listen)
        if foreign or (self.files and not drops):
            from byzpy_tw.plugins import load

            self.registry = load(disabled=config.disable_plugin, files=self.files)

    @staticmethod
    def _check_address(config: ServerConfig, registry: Registry | None) -> None:
        """Raise an error where this server could not listen."""
        from byzpy_tw.transports.table import check_keys, listening_address

        address, transport = listening_address(config, registry)
        check_keys(address, transport, config.keys)
        transport.check_free(address)


def _check_metrics(endpoint: str | None) -> None:
    """Raise `ConfigError` where ``--metrics`` cannot be served."""
    if endpoint is None:
        return
    from byzpy_tw.output.exposition import EXTRA
    from byzpy_tw.output.web_server import check_free

    check_free(endpoint, "--metrics")
    if find_spec("prometheus_client") is None:
        raise ConfigError(f"--metrics: {EXTRA}")


def _check_descriptor(number: int | None) -> None:
    """Raise `ConfigError` where ``--announce-fd`` is no open file descriptor."""
    try:
        if number is not None:
            os.fstat(number)
    except OSError as e:
        raise ConfigError(
            f"--announce-fd {number}: {e.strerror or e}; it must be open when the server starts"
        ) from e


def _load_late_modules() -> None:
    """Import what Python would at first use, such as codecs: ``--uid`` may make it unreadable."""
    files("byzpy_tw.datasets").joinpath("mnist5k.npz").is_file()
    "".encode("cp437")  # of names in NumPy's archives
    "".encode("idna")


def _error_line(text: str) -> str:
    return f"byzpy-server: {printable(text)}"


def _check_folders(twistd: Mapping[str, Any]) -> None:
    """End with one line where a folder that twistd would use is not there."""
    for option, folder in (("rundir", twistd["rundir"]),
                           ("pidfile", os.path.dirname(twistd["pidfile"]))):  # fmt: skip
        if folder and not os.path.isdir(folder):
            raise SystemExit(_error_line(f"--{option}: there is no folder {folder}"))


class _Services(MultiService):
    """The server and all that belongs to its process; what logs, for twistd to use."""

    _observer: ILogObserver | None = None

    def log(self, twistd: Mapping[str, Any], reload: Reload | None) -> None:
        """Log as twistd's options say; end with one line where the file cannot be opened."""
        from byzpy_tw.server.log import open_log

        try:
            opened = open_log(twistd)
        except OSError as e:
            why = f"--logfile: cannot write to {e.filename}: {e.strerror or e}"
            raise SystemExit(_error_line(why)) from None
        if opened is not None:
            self._observer, file = opened
            if reload is not None:
                reload.log_file = file

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if self._observer is not None:  # twistd looks for it there
            parent.setComponent(ILogObserver, self._observer)


def makeService(options: Options, reactor: Any = None) -> IService:
    """The server, not started: no thread, socket or device before twistd forks."""
    reload = None
    if reactor is None:
        from twisted.internet import reactor

        from byzpy_tw.server.reload import Reload

        foreground = options.parent is None or bool(options.parent.get("nodaemon", True))
        reload = Reload.install(reactor, foreground)
        make_streams_tolerant()  # the log's terminal may lack a character of a run's name
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.server.parent import Announcement, UntilEOF
    from byzpy_tw.server.service import ByzpyServer

    _load_late_modules()
    services = _Services()
    if options.parent is not None and "nodaemon" in options.parent:  # twistd, not twist
        _check_folders(options.parent)
        services.log(options.parent, reload)
    config = evolve(options.config, threads=options.config.threads or cores())
    server = ByzpyServer(
        reactor, config, keys=options.loaded_keys, process=True,
        files=options.files, loaded=options.registry,
    )  # fmt: skip
    if config.metrics is not None:
        from byzpy_tw.server.metrics import MetricsPort

        # Before the server: where it cannot listen, nothing is started.
        MetricsPort(server, config.metrics, reactor).setServiceParent(services)
    server.setServiceParent(services)
    if reload is not None:
        reload.server = server
    if config.until_eof:
        UntilEOF(reactor).setServiceParent(services)
    if config.announce_fd is not None:
        Announcement(config.announce_fd, lambda: server.address).setServiceParent(services)
    return services
