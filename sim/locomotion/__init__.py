"""gymnasium's Hopper, HalfCheetah and Walker2d, with trained agents to record."""
