"""What a fitted law says of compute: the best N and D at a budget, IsoFLOP minima, and the cost of being wrong."""
