"""HTTP gateway for clients of all supported APIs: plain ASGI, one module per route
group."""
