"""`python -m shardbroker` is the `shardbroker` command."""

from shardbroker.cli.main import main

if __name__ == "__main__":
    main()
