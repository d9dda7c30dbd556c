"""A client of the protocol before 2026, in an environment of its own: the SDK in version 1.

old_mcp_client.py stdio COMMAND… | http URL TOKEN: prints what it saw, as JSON.
"""

import asyncio
import json
import sys
from importlib.metadata import version

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def seen(streams) -> dict:
    told = []

    async def progress(done, total, message) -> None:
        told.append([done, total])

    async with ClientSession(*streams[:2]) as session:
        hello = await session.initialize()
        tools = (await session.list_tools()).tools
        fact = {"subject": "Old", "predicate": "knows", "object": "New"}
        stored = await session.call_tool("store_fact", fact)
        content = {"content": "Oslo is the capital of Norway. " * 30, "title": "Norway"}
        await session.call_tool("store_knowledge", content, progress_callback=progress)
        answer = await session.call_tool(
            "ask_question", {"question": "What is the capital of Norway?"}
        )
        refused = await session.call_tool("find_facts", {"query": {}})
        return {
            "sdk": version("mcp"),
            "protocol": hello.protocolVersion,
            "tools": sorted(tool.name for tool in tools),
            "stored": stored.structuredContent["outcome"],
            "answer": answer.structuredContent["answer"],
            "refused": [refused.isError, refused.content[0].text],
            "progress": told,
        }


async def main() -> dict:
    how, *where = sys.argv[1:]
    if how == "stdio":
        async with stdio_client(StdioServerParameters(command=where[0], args=where[1:])) as streams:
            return await seen(streams)
    headers = {"Authorization": f"Bearer {where[1]}"}
    async with streamablehttp_client(where[0], headers=headers) as streams:
        return await seen(streams)


print(json.dumps(asyncio.run(main())))
