"""The page at /: a link to each endpoint."""

from __future__ import annotations

from typing import Final

ENDPOINTS: Final = (
    ("/varz", "General"),
    ("/shardz", "Shards"),
    ("/jsz", "JetStream"),
    ("/connz", "Connections"),
    ("/accountz", "Accounts"),
    ("/accstatz", "Account Stats"),
    ("/subsz", "Subscriptions"),
    ("/routez", "Routes"),
    ("/leafz", "LeafNodes"),
    ("/gatewayz", "Gateways"),
    ("/healthz", "Health Probe"),
    ("/metrics", "Prometheus"),
)


def index_page(base_path: str) -> str:
    """HTML without scripts, styles or requests to elsewhere."""
    prefix = base_path.rstrip("/")
    links = "\n".join(f'<a href="{prefix}{path}">{text} <code>{path}</code></a><br/>' for path, text in ENDPOINTS)
    return (
        '<html lang="en"><head><title>shardbroker</title></head>\n'
        f"<body><h1>shardbroker</h1>\n{links}\n"
        '<a href="https://docs.nats.io/running-a-nats-service/nats_admin/monitoring">Help</a></body></html>\n'
    )
