"""SLURM: the text of its jobs, their submission, and what it says of them. SLURM itself is the engine."""
