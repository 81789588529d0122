"""What people type: `shardbroker` serves, `shardbroker <word>` is a tool."""
