"""The certificates of the tests' own authority, and brokers with streams, for clients too."""

from stream.conftest import js as js
from stream.conftest import name as name
from transports.conftest import authority as authority
