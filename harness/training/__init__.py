"""Training: one engine on stacks of members.

step.py holds Algorithm 1, gan.py the GAN as a method, loop.py what surrounds every method: data, history,
checkpoints, snapshots.
"""
