"""Names the server for twistd.  Every twistd on the machine imports this file,
so it names modules by strings and imports none of them."""

from twisted.application.service import ServiceMaker

byzpy_server = ServiceMaker(
    "byzpy_tw server",
    "byzpy_tw.tap",
    "Hosts nodes of Byzantine-robust training runs.",
    "byzpy-server",
)
