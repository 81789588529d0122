"""What of this machine and this installation the broker depends on, and whether it will do."""
