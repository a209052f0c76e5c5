"""Providers, tools, agent strategies, endpoints, datasources and triggers in processes of their own: unmodified Dify
plugins. How the parts fit: docs/design/0007-plugins.md."""
