"""Model providers: their definitions, and the code that calls them."""
