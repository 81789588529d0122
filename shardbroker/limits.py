"""Limits and constants of the protocol and of the resources, each with where it comes from.

Sizes are bytes and times seconds unless the name says otherwise. Sources: nats-server's server/const.go, where no other
is named.
"""

from __future__ import annotations

from typing import Final

# The version that INFO, /varz and -v claim. Clients switch features on by it, and it claims all features of that
# version; 2.12 is the newest line whose core protocol is served in full.
PROTOCOL_VERSION: Final = "2.12.0"
# INFO's "proto": 1 adds INFO updates after CONNECT, and echo.
PROTOCOL_LEVEL: Final = 1
# The level of the JetStream API that this version of nats-server has (jetstream_versioning.go).
API_LEVEL: Final = 2
# INFO's "go" names what the server runs on.
GO_VERSION: Final = "python"

PORT_DEFAULT: Final = 4222
PORT_RANDOM: Final = -1
HOST_DEFAULT: Final = "0.0.0.0"
HTTP_PORT_DEFAULT: Final = 8222

# A line of the protocol without payload: subject, reply, queue group, or the JSON of a CONNECT.
CONTROL_LINE_BYTES: Final = 4096
PAYLOAD_BYTES: Final = 1024 * 1024
# Above this nats-server warns: clients and ring records are not made for it.
PAYLOAD_BYTES_WARN: Final = 8 * 1024 * 1024
# Sizes are 32-bit signed numbers on the wire and in records (opts.go max_payload, max_control_line).
SIZE_MAX: Final = 2**31 - 1
PENDING_BYTES: Final = 64 * 1024 * 1024
CONNECTIONS: Final = 64 * 1024
# opts.go max_sub_tokens is a byte.
SUBSCRIPTION_TOKENS_MAX: Final = 255

AUTH_TIMEOUT: Final = 2.0
TLS_TIMEOUT: Final = 2.0
PING_INTERVAL: Final = 120.0
# Between the servers of a cluster (route.go routeMaxPingInterval).
CLUSTER_PING_INTERVAL: Final = 30.0
PINGS_OUT_MAX: Final = 2
WRITE_DEADLINE: Final = 10.0
LAME_DUCK_DURATION: Final = 120.0
LAME_DUCK_DURATION_MIN: Final = 30.0
LAME_DUCK_GRACE_PERIOD: Final = 10.0

# Ours. A set of shards is a 64-bit word in the interest directory.
WORKERS_MAX: Final = 64
# One data ring for each ordered pair of shards: holds 4 of the largest default messages.
RING_BYTES: Final = 4 * 1024 * 1024
# Rings are mapped twice back to back, so they are whole pages; longer records travel in fragments.
RING_BYTES_MIN: Final = 4096
RING_BYTES_MAX: Final = 1024 * 1024 * 1024
# Interest changes are records of tens to hundreds of bytes: thousands fit.
CONTROL_RING_BYTES: Final = 256 * 1024
# A record of interest is as long as a control line, and must fit into half of its ring; as much again for comfort.
CONTROL_RING_LINES: Final = 4
CONTROL_LINE_BYTES_MAX: Final = RING_BYTES_MAX // CONTROL_RING_LINES
# What a shard may keep for another that does not read its ring; then the shard's clients are held, not the memory grown.
OVERFLOW_BYTES_MAX: Final = 256 * 1024 * 1024
# Spinning before sleep is off until a measurement asks for it.
SPIN_SECONDS: Final = 0.0
