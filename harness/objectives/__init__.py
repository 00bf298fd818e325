"""What the players minimise."""
