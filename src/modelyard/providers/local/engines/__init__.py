"""Engines that run a model inside its process, one per file. The heavy packages are
imported only here."""
