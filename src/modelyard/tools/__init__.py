"""Tools: what models may call. One shape for built-in ones, Python functions, APIs, MCP servers, plugins and apps."""
