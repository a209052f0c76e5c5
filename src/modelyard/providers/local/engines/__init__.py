"""What runs a model inside its process. One engine a file; only here are the heavy packages imported."""
