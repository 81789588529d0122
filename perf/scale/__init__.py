"""Cost per message and memory against numbers of things."""
