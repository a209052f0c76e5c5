"""Where vectors and words are searched: one Protocol, several homes."""
