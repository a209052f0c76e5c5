"""Agents: a model that calls tools until it has an answer. One loop; strategies are
pure functions of the state."""
