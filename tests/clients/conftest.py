"""The certificates of the tests' own authority, for clients too."""

from transports.conftest import authority as authority
