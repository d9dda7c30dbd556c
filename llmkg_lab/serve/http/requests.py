"""What clients may ask, as OpenAI has it: unknown fields are refused, null is as if absent."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmkg_lab.serve.http.errors import ApiError

T = TypeVar("T")
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Text = Annotated[str, Field(max_length=8 << 20)]

# of OpenAI's requests: what changes nothing here, and the values of others that ask for nothing
IGNORED = ("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
           "prompt_cache_retention", "store", "parallel_tool_calls")  # fmt: skip
HARMLESS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "suffix": ("",),
    "best_of": (1,),
    "moderation": (),
}


class ApiRequest(BaseModel):
    """What all requests share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, data: Any) -> Any:
        """Refuse by name what is not built; leave out what changes nothing, and nulls."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in HARMLESS:
                if value is not None and value not in HARMLESS[name]:
                    message = f"'{name}' is not supported by this server"
                    raise ApiError(400, message, param=name, code="unsupported_parameter")
            elif name not in IGNORED:
                kept[name] = value  # refused as unknown
        return kept


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)  # clients send answers back whole

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    def plain(self) -> dict[str, str]:
        """The message as chat templates take it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampled(ApiRequest):
    """How to continue; ``top_k`` and ``repetition_penalty`` are vLLM's additions."""

    model: str
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: (
        Annotated[str, Field(max_length=1000)]
        | Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings; an empty one asks for nothing."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, stop))

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Sampled):
    """Continue texts."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None


class ChatRequest(Sampled):
    """Answer a conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class EmbeddingRequest(ApiRequest):
    """Embed texts, or lists of the model's own tokens, which are read as they are."""

    model: str
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    truncate: bool | None = None  # cut what is too long; by default it is refused


class Document(BaseModel):
    """A passage to rank."""

    model_config = ConfigDict(extra="ignore", strict=True)

    text: Text


class RerankRequest(ApiRequest):
    """Order passages by how well they answer a query, in Jina's words."""

    model: str
    query: Text
    documents: Annotated[list[Text | Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None  # by default true: the longer of query and passage is cut
