"""One file a route: a request in, a model called, an answer out."""
