"""The simulated world: virtual time, seeded chance, a disk that crashes, fills and tears writes."""
