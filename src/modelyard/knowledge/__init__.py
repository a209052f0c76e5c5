"""Documents that can be asked: taken in, split, indexed, found again, answered from with their sources."""
