"""The API of datasets."""
