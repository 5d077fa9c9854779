# SPDX-License-Identifier: Apache-2.0
"""Which of a conversation's text counts in the loss."""
import os

from refusal import Refusal


def answer_length(added, content):
    """How much of an answer's text counts: not the white space behind the mark that ends it."""
    content = content.strip() if isinstance(content, str) else ""
    behind = added.rpartition(content)[2] if content and content in added else added
    return len(added.rstrip()) if behind.strip() else len(added)


def length_before(template, messages, record, text, turn):
    """The length of the text of the messages before a turn with the prompt for an answer."""
    what = f"the text of messages 1 to {turn} with the prompt for an answer"
    try:
        before, _ = template.render(messages[:turn], record, True)
    except Refusal as error:
        raise Refusal(f"{what}, by which the part that counts is found: {error}") from None
    if not text.startswith(before):
        same = len(os.path.commonprefix([before, text]))
        raise Refusal(f"{what} is not the front of the whole text, so what counts cannot be told: "
                      f"{before[same:same + 40]!r} stands where the whole text has "
                      f"{text[same:same + 40]!r}; a template with generation blocks says it")
    return len(before)


def counted_by_prefixes(template, messages, record, text, first):
    """The spans of the assistant's turns from message `first` on."""
    spans = []
    for turn in range(first, len(messages)):
        if messages[turn]["role"] != "assistant":
            continue
        begin = length_before(template, messages, record, text, turn)
        whole = text
        if turn + 1 < len(messages):
            whole, _ = template.render(messages[:turn + 1], record, False)
            if not text.startswith(whole) or len(whole) < begin:
                raise Refusal(f"the text of messages 1 to {turn + 1} is not the front of the text "
                              "with those that follow, so what counts cannot be told; a template "
                              "with generation blocks says it")
        added = whole[begin:]
        spans.append((begin, begin + answer_length(added, messages[turn].get("content"))))
    return spans


def messages_of(record, key):
    messages = record[key]
    if not isinstance(messages, list) or not messages:
        raise Refusal(f'"{key}": must be a list of messages')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(f'"{key}": message {number} must be an object with a "role"')
    # null is no value: templates write it as "None".
    return [{name: value for name, value in message.items() if value is not None}
            for message in messages]


def rendered(record, template):
    """(text, spans that count) of a line."""
    if "messages" in record:
        messages, first = messages_of(record, "messages"), 0
    elif "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return prompt + completion, [(len(prompt), len(prompt) + len(completion))]
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise Refusal('"prompt" and "completion": must both be texts, or both lists of messages')
        prompt = messages_of(record, "prompt")
        first = len(prompt)
        messages = prompt + messages_of(record, "completion")
    else:
        raise Refusal('has neither "messages" nor "prompt" and "completion"')
    text, spans = template.render(messages, record, False)
    if not template.marks:
        return text, counted_by_prefixes(template, messages, record, text, first)
    if first > 0:
        begin = length_before(template, messages, record, text, first)
        spans = [(max(span[0], begin), span[1]) for span in spans if span[1] > begin]
    return text, spans


def segments_of(text, spans):
    segments = []

    def add(part, label):
        if not part:
            return
        if segments and segments[-1]["label"] == label:
            segments[-1]["text"] += part
        else:
            segments.append({"text": part, "label": label})

    done = 0
    for begin, end in spans:
        add(text[done:begin], False)
        add(text[begin:end], True)
        done = end
    add(text[done:], False)
    if not any(segment["label"] for segment in segments):
        raise Refusal("nothing counts in the loss: no turn is the assistant's, or each is empty")
    return segments
