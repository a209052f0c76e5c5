"""Tools that models can call. Built-in tools, Python functions, APIs, MCP servers,
plugins and apps share one interface."""
