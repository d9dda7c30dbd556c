"""Chat templates: a conversation, written down as the model was taught to read it.

They come from strangers, so they are rendered in a process of their own (``templates``).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmkg_lab.base.bounded import Bounded, BoundsError
from llmkg_lab.runtime import InferenceError

SECONDS, MEMORY = 1, 256 << 20  # of computing, of address space; a common prompt takes 1 ms

_templates = Bounded(Path(__file__).with_name("templates.py"), idle=60)


def render(template: str, messages: Sequence[Mapping[str, str]], **variables: object) -> str:
    """Return the prompt that ``template`` makes of ``messages``.

    Args:
        variables: What the template may read beside the messages, such as special tokens.

    Raises:
        InferenceError: The template is broken or takes too long, or it refuses the messages.
    """
    if not messages:
        raise InferenceError("the conversation is empty", "give at least one message")
    # templates expect what is not said to be absent: a message's content, a special token
    said = [_without_none(message) for message in messages]
    # one may ask whether there are tools or documents: there are none
    given = {"messages": said, "tools": None, "documents": None, **_without_none(variables)}
    try:
        request = json.dumps([template, given]).encode()
        prompt: str = json.loads(_templates.ask(request, seconds=SECONDS, memory=MEMORY))
    except (BoundsError, TypeError, ValueError, RecursionError) as error:
        raise InferenceError(
            f"the chat template refuses these messages: {error}",
            "give messages with a role (system, user, assistant, in turns) and a content",
        ) from error
    return prompt


def _without_none(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
