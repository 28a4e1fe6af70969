"""Clients of the official MCP SDK, for the protocol that has sessions. For each line that it reads: `begin` opens a session, `N` calls
the tool of session N; it prints which server has answered, or that the session is lost."""

import asyncio
import sys
from contextlib import AsyncExitStack

from mcp import Client

URL = sys.argv[1]


async def main():
    sessions = []
    async with AsyncExitStack() as stack:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "begin":
                sessions.append(await stack.enter_async_context(Client(URL, mode="legacy")))
                line = str(len(sessions) - 1)
            try:
                result = await sessions[int(line)].call_tool("who", {})
                print(result.content[0].text, flush=True)
            except Exception as error:
                print(f"lost: {error}", flush=True)


asyncio.run(main())
