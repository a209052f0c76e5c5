"""Agents: a model that calls tools until it has an answer. One loop, strategies as pure functions."""
