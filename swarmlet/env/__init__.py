"""The world, behind four small protocols: clock, chance, entropy, disk.

Production wires `env.real`, the simulation its own; nothing else may touch time, randomness or
files. A virtual-time event loop makes `asyncio.sleep` and `asyncio.timeout` part of the simulated
world, so shells use those directly and ask `Env.clock` only what time it is.
"""
