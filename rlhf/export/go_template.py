"""A chat template as Ollama takes it: in Go's template language, by what the tokenizer's template is seen to write.

Jinja is a whole language, so nothing is translated. A template that writes a dialogue message by message has one text
between each role and the next, whatever the messages say. These texts are read off short dialogues, and hold where
longer ones are written with the same texts. Other templates are refused.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from typing import Any

from rlhf.errors import DataError, InputError
from rlhf.modeling.chat import Conversation, chat_of

_START, _END = "", "end"
_PADDED = "  x  "
_TURNS = 4
_REFUSED = "this chat template writes no dialogue with its roles in this order"

Texts = Mapping[tuple[str, str], str]


def observed(tokenizer: Any) -> Texts:
    """What a tokenizer's chat template writes between one role and the next, before the first, and before an answer.

    Raises:
        InputError: the template does not write a dialogue message by message, or changes what messages say.
    """
    chat = chat_of(tokenizer)
    texts: dict[tuple[str, str], str] = {}
    for roles in _dialogues():
        padded = [{"role": role, "content": _PADDED} for role in roles]
        try:
            layout, rewriting = chat.layout(roles, asks=True), chat.write([padded], asks=True)[0].rewriting
        except DataError as error:
            if "system" in roles:
                continue  # many templates know no such role
            raise _refusal(str(error)) from error
        if layout.slots != tuple(range(len(roles))):
            raise _refusal(f"it writes the messages {', '.join(roles)} in another order, or not all of them")
        if rewriting not in (None, "trimmed"):
            raise _refusal("it changes what messages say")
        for step, text in zip(pairwise([_START, *roles, _END]), layout.pieces, strict=True):
            if texts.setdefault(step, text) != text:
                raise _refusal(f"what it writes for {', '.join(roles)} is not made of what it writes for each")
    return texts


def write(texts: Texts, dialogue: Conversation) -> str:
    """A dialogue that asks for an answer, as the Go template writes it."""
    steps = pairwise([_START, *(message["role"] for message in dialogue), _END])
    contents = [*(message["content"] for message in dialogue), ""]
    return "".join(texts[step] + content for step, content in zip(steps, contents, strict=True))


def trims(tokenizer: Any) -> bool:
    """Whether the template takes blanks off the ends of a message, which Go's templates in Ollama cannot."""
    return chat_of(tokenizer).write([[{"role": "user", "content": _PADDED}]], asks=True)[0].rewriting == "trimmed"


def go_template(texts: Texts) -> str:
    """The template in Go's language, over Ollama's `.Messages`; an order of roles that was not observed is an error."""
    steps = {f"{last}>{role}": text for (last, role), text in texts.items() if role != _END}
    ends = {last: text for (last, role), text in texts.items() if role == _END}
    return (
        '{{ $last := "" }}{{ range .Messages }}{{ $step := print $last ">" .Role }}'
        f"{_choice('$step', steps)}{{{{ .Content }}}}{{{{ $last = .Role }}}}{{{{ end }}}}{_choice('$last', ends)}"
    )


def _dialogues() -> Iterator[tuple[str, ...]]:
    """Orders of roles: turns of a user and an assistant, with and without a system's message before them."""
    for system, number in product(((), ("system",)), range(_TURNS)):
        yield (*system, *("user", "assistant") * number, "user")


def _choice(variable: str, texts: Mapping[str, str]) -> str:
    cases = (f'if eq {variable} "{value}" }}}}{_literal(text)}' for value, text in texts.items())
    # Go's templates have no word for an error; a slice beyond the end of a text is one, and shows the text.
    error = f'slice "{_REFUSED}" {len(_REFUSED) + 1}'
    return "{{ " + "{{ else ".join(cases) + f"{{{{ else }}}}{{{{ {error} }}}}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Text as it stands in a template within three quotation marks of a Modelfile."""
    plain = not set('{"') & set(text) and all(char == "\n" or char.isprintable() for char in text)
    return text if plain else f"{{{{ {_quoted(text)} }}}}"


def _quoted(text: str) -> str:
    escaped = (f"\\{char}" if char in '"\\' else char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)
    return '"' + "".join(escaped) + '"'


def _refusal(why: str) -> InputError:
    return InputError(
        f"the policy's chat template cannot be written as one of Go, which Ollama takes ({why}); export it with --to "
        "gguf, and serve that file with llama.cpp, which reads the template itself"
    )
