"""A server with what MCP's conformance suite asks for, behind our own checks and a token.

mcp_fixture.py TOKEN: prints its port. What the suite tests here is how we mount such a server: that
hosts, tokens, bodies and streams go through our checks as the protocol wants it.
"""

import asyncio
import base64
import contextlib
import json
import socket
import sys
import warnings

import mcp_types as types
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings

from llmkg_lab.serve.http.app import Extension, create_app
from llmkg_lab.serve.mcp.server import PATH
from llmkg_lab.serve.settings import Settings

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"
server = MCPServer("fixture", log_level="ERROR")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def image() -> types.ImageContent:
    return types.ImageContent(type="image", data=encoded(PNG), mime_type="image/png")


def embedded(uri: str, text: str, kind: str = "text/plain") -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=kind, text=text)
    return types.EmbeddedResource(type="resource", resource=contents)


def text(said: str) -> types.TextContent:
    return types.TextContent(type="text", text=said)


@server.tool(structured_output=False)
def test_simple_text() -> str:
    """Return a text."""
    return "This is a simple text response for testing."


@server.tool(structured_output=False)
def test_image_content() -> Image:
    """Return an image."""
    return Image(data=PNG, format="png")


@server.tool(structured_output=False)
def test_audio_content() -> types.AudioContent:
    """Return a sound."""
    return types.AudioContent(type="audio", data=encoded(WAV), mime_type="audio/wav")


@server.tool(structured_output=False)
def test_embedded_resource() -> types.EmbeddedResource:
    """Return a resource."""
    return embedded("test://embedded-resource", "This is an embedded resource content.")


@server.tool(structured_output=False)
def test_multiple_content_types() -> list:
    """Return several kinds of content."""
    data = json.dumps({"test": "data", "value": 123})
    mixed = embedded("test://mixed-content-resource", data, "application/json")
    return [text("Multiple content types test:"), image(), mixed]


@server.tool(structured_output=False)
async def test_tool_with_logging(ctx: Context) -> str:
    """Log three times."""
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.log("info", said)
        await asyncio.sleep(0.05)
    return "done"


@server.tool(structured_output=False)
async def test_tool_with_progress(ctx: Context) -> str:
    """Tell progress three times."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return "done"


@server.tool(structured_output=False)
def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool(structured_output=False)
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Ask the client's model."""
    message = types.SamplingMessage(role="user", content=text(prompt))
    found = await ctx.session.create_message(
        [message], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {found.content.text}"


async def elicited(ctx: Context, message: str, properties: dict, required: list) -> str:
    schema = {"type": "object", "properties": properties, "required": required}
    found = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={found.action}, content={json.dumps(found.content)}"


@server.tool(structured_output=False)
async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the user."""
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return f"User response: {await elicited(ctx, message, fields, list(fields))}"


@server.tool(structured_output=False)
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask the user, with defaults."""
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    }
    return f"Elicitation completed: {await elicited(ctx, 'Check these', fields, [])}"


@server.tool(structured_output=False)
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask the user to choose, in all five ways."""
    options = ["option1", "option2", "option3"]

    def titled(word: str) -> list:
        names = ("First", "Second", "Third")
        return [{"const": f"value{i}", "title": f"{n} {word}"} for i, n in enumerate(names, 1)]

    fields = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled("Option")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
    }
    return f"Elicitation completed: {await elicited(ctx, 'Choose', fields, [])}"


@server.resource("test://static-text", mime_type="text/plain", description="A text")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png", description="An image")
def static_binary() -> bytes:
    return PNG


@server.resource("test://watched-resource", mime_type="text/plain", description="Watched")
def watched() -> str:
    return "Watched."


@server.resource("test://template/{id}/data", mime_type="application/json", description="Data")
def template(id: str) -> str:
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.prompt()
def test_simple_prompt() -> str:
    """Return a prompt."""
    return "This is a simple prompt for testing."


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """Return a prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def message(content: object) -> dict:
    return {"role": "user", "content": content}


@server.prompt(name="test_prompt_with_embedded_resource")
def prompt_with_resource(resourceUri: str) -> list:  # noqa: N803  (the suite's name)
    """Return a prompt with a resource."""
    resource = embedded(resourceUri, "Embedded resource content for testing.")
    return [message(resource), message(text("Please process the embedded resource above."))]


@server.prompt()
def test_prompt_with_image() -> list:
    """Return a prompt with an image."""
    return [message(image()), message(text("Please analyze the image above."))]


@server.completion()
async def complete(ref: object, argument: object, context: object) -> types.Completion:
    return types.Completion(values=["paris", "park", "party"], total=3, has_more=False)


async def accepted(ctx: object, params: object) -> types.EmptyResult:
    return types.EmptyResult()


def main() -> None:
    warnings.simplefilter("ignore")  # the suite asks for what the newest protocol deprecates
    low = server._lowlevel_server
    low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, accepted)
    low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, accepted)
    low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, accepted)
    unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(streamable_http_path=PATH, transport_security=unguarded)

    @contextlib.asynccontextmanager
    async def lifespan():
        async with server.session_manager.run():
            yield

    extension = Extension(lambda api: api.router.routes.extend(app.routes), lifespan)
    guarded = create_app(Settings(tokens=(sys.argv[1],), preload=False), [extension])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(guarded, log_level="error", lifespan="on")
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
