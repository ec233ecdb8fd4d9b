"""From prompts to the text that a model reads: through its chat template, another one, or none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone.data.formats import Messages, Prompt, shown, text_of
from torchstone.terminal import UserError, near


def choose_template(tokenizer: Any, template: str, arguments: str) -> dict[str, Any]:
    """Give the tokenizer the template of ``--chat-template``; give back the arguments that ``--template-args`` names.

    Raises UserError: a file that is no template, arguments that are no object in JSON or that it never reads.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    if template == "none":
        tokenizer.chat_template = None
    elif template != "default":
        try:
            tokenizer.chat_template = Path(template).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as e:
            raise UserError(f"--chat-template {template}: expected default, none or a file of Jinja: {e}") from e
    chat = [{"role": "user", "content": "torchstone"}]
    has = getattr(tokenizer, "chat_template", None) is not None
    try:
        given = json.loads(arguments or "{}")
    except ValueError as e:
        raise UserError(f"--template-args {arguments}: not JSON ({e})") from e
    try:
        if has and "torchstone" not in tokenizer.apply_chat_template(chat, tokenize=False):
            raise UserError(f"--chat-template {template}: it leaves out what the user says")
    except TemplateSyntaxError as e:
        raise UserError(f"--chat-template {template}, line {e.lineno}: {e.message}") from e
    except (TemplateError, ValueError):
        pass  # it wants other messages than these
    if not isinstance(given, dict):
        raise UserError(f"""--template-args {arguments}: expected an object, such as {{"enable_thinking": false}}""")
    words = set(re.findall(r"[^\W\d]\w*", tokenizer.get_chat_template() if has else ""))
    for name in given.keys() - words:
        raise UserError(f"--template-args: the chat template has no {name!r} in it{near(name, words)}")
    return given


def render(tokenizer: Any, prompts: Sequence[Prompt], system: str | None, arguments: dict[str, Any]) -> list[str]:
    """The text of each prompt, to be tokenised: its messages, or itself as the user's, through the chat template.

    ``system`` goes before prompts that do not begin with a system message. Without a template it is a line before the
    prompt, and messages are their contents, if they are the user's alone, or the system's and the user's.
    """
    chats = [as_messages(prompt, system) for prompt in prompts]
    if getattr(tokenizer, "chat_template", None) is not None:
        return [through_template(tokenizer, chat, arguments) for chat in chats]
    for chat in chats:
        if [message["role"] for message in chat] not in (["user"], ["system", "user"]):
            has = "messages of several turns need a chat template, and the model has none"
            raise UserError(f"{has}: give one with --chat-template FILE ({shown(chat)})")
    return [text_of(chat) for chat in chats]


def as_messages(prompt: Prompt, system: str | None) -> Messages:
    """A prompt as messages: a text is the user's."""
    chat = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": system}, *chat] if system and not has_system(chat) else chat


def has_system(prompt: Prompt) -> bool:
    """Whether it begins with a system message of its own."""
    return isinstance(prompt, list) and prompt[0]["role"] == "system"


def through_template(tokenizer: Any, chat: Messages, arguments: dict[str, Any]) -> str:
    """What the model reads before its answer; an answer that has begun, as the last message, is gone on with."""
    from jinja2 import TemplateError

    begun = chat[-1]["role"] == "assistant"
    ends = {"add_generation_prompt": not begun, "continue_final_message": begun}
    try:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, **ends, **arguments)
        return text
    except (TemplateError, TypeError, ValueError) as e:
        raise UserError(f"the chat template refuses {shown(chat)}: {e}") from e


def control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Texts that the tokenizer reads as control tokens, such as ``<|im_end|>``, wherever they stand."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    texts = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None
