"""Routes for plugins and for the programs that host them."""
