"""Host for unmodified Dify plugins: model providers, tools, agent strategies,
endpoints, datasources and triggers that run in separate processes. Architecture:
docs/design/0007-plugins.md."""
