"""What the black-box tests share: a broker process under test and clients that speak raw bytes to it."""

from harness.broker import SERVER, Broker, wait_until
from harness.raw import CONNECT, RawClient, connect_line, msg, pub

__all__ = ["CONNECT", "SERVER", "Broker", "RawClient", "connect_line", "msg", "pub", "wait_until"]
