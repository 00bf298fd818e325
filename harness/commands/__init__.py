"""What the commands do beyond one call: reading paths, looping over runs, printing records. One file a verb."""
