"""An MCP server of the official SDK over streamable HTTP, with state that is a session's own. Its argument is its name; it prints its port."""

import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

name = sys.argv[1]
server = MCPServer(name)


@server.tool()
def who() -> str:
    """Which server has the session."""
    return name


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
# Its clients name the gateway's port.
security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
app = server.streamable_http_app(transport_security=security)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
