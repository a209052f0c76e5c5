"""Policies: steps before, after or instead of a model call, one concern in each module.
The app package defines their order."""
