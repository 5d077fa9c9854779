#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What transformers makes of conversations by the templates beside it, for launch.chat.

    pip install transformers && python3 tests/reference/chat_templates.py

Writes tests/reference/fixtures/chat_templates/: tokenizer.json, the fixture tokenizer qwen2 with the
marks of all templates, and cases.jsonl, a conversation by a template a line: the text, the ids, and
which of them count; OTHER_CASES by tokenizers that put a blank before a text. What counts transformers knows from generation blocks alone: for templates
without them it is the answers and their end marks, found here by the texts of the case.
"""
import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as utils
from transformers import AddedToken, PreTrainedTokenizerFast

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
FOLDER = FIXTURES / "chat_templates"
MARKS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eot_id|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<tool_call>",
         "</tool_call>"]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
DATE = datetime.datetime(2026, 3, 9)


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": " Be brief. "}
SHORT = [user("2+2?"), assistant("4")]
LONG = [user("Name a tree & a <b>."), assistant("An oak, and\n\nb."), user("你好 😀"),
        assistant("Grüße."), user("More?"), assistant("  No more  ")]
# The user's text holds a mark, which becomes that mark's id.
MARKED = [user("Is <|im_end|> or <end_of_turn> a mark?"), assistant("It is.")]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "a < b & 'c' → é"}}]
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "ü<&>"}}}]
WITH_TOOLS = [user("1+2?"), assistant(None, tool_calls=CALLS), {"role": "tool", "content": "3"},
              {"role": "tool", "content": "4"}, assistant("3")]
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>",
        "zephyr": ""}  # with the mark of the tokenizer behind it
CASES = {
    "chatml": [SHORT, [SYSTEM, *LONG], MARKED],
    "chatml-generation": [SHORT, [SYSTEM, *LONG], MARKED],
    "llama3": [SHORT, [SYSTEM, *LONG], MARKED],
    "qwen": [SHORT, [SYSTEM, *LONG], WITH_TOOLS],
    "mistral": [SHORT, LONG, MARKED],
    "gemma": [SHORT, LONG, MARKED],
}
# Template, tokenizer, its mark of an end; their marks of turns are text to the tokenizers.
OTHER_CASES = [("zephyr", "llama2", "</s>"), ("mistral", "llama2", "</s>"),
               ("zephyr", "mistral", "</s>"), ("mistral", "mistral", "</s>"),
               ("zephyr", "gpt2", "<|endoftext|>")]


def tokenizer():
    made = PreTrainedTokenizerFast(tokenizer_file=str(FIXTURES / "tokenizers" / "qwen2.json"), **TOKENS)
    made.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return made


def answers(template, messages, text, end_mark):
    """(begin, end) of each answer in the text, with its end mark."""
    spans, at = [], 0
    for message in messages:
        content = message["content"]
        if template in ("llama3", "gemma"):
            content = content.strip()
        at = text.index(content, at)
        if message["role"] == "assistant":
            end = at + len(content) + len(end_mark)
            assert text[:end].endswith(end_mark)
            begin = at - 1 if template == "mistral" else at  # the blank is not the prompt's
            spans.append((begin, end))
        at += len(content)
    return spans


def mask_of(encoded, spans):
    return [int(any(begin <= at < end for begin, end in spans)) for at, _ in encoded["offset_mapping"]]


def main():
    made = tokenizer()
    made.backend_tokenizer.save(str(FOLDER / "tokenizer.json"))

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return DATE
    utils.datetime = Fixed
    with open(FOLDER / "cases.jsonl", "w", encoding="utf-8") as out:
        for name, conversations in CASES.items():
            template = (FOLDER / f"{name}.jinja").read_text()
            for messages in conversations:
                given = {"tools": TOOLS if messages is WITH_TOOLS else None, "chat_template": template}
                text = made.apply_chat_template(messages, tokenize=False, **given)
                if "generation" in name or name == "qwen":
                    encoded = made.apply_chat_template(messages, return_dict=True,
                                                       return_assistant_tokens_mask=True, **given)
                    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
                else:
                    encoded = made(text, add_special_tokens=False, return_offsets_mapping=True)
                    ids = encoded["input_ids"]
                    mask = mask_of(encoded, answers(name, messages, text, ENDS[name]))
                line = {"template": name, "messages": messages, "text": text, "ids": ids, "mask": mask}
                if given["tools"]:
                    line["tools"] = TOOLS
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        for name, kind, end in OTHER_CASES:
            other = PreTrainedTokenizerFast(tokenizer_file=str(FIXTURES / "tokenizers" / f"{kind}.json"),
                                            eos_token=end)
            template = (FOLDER / f"{name}.jinja").read_text()
            for messages in CASES["mistral"]:
                text = other.apply_chat_template(messages, tokenize=False, chat_template=template,
                                                 bos_token="")
                encoded = other(text, add_special_tokens=False, return_offsets_mapping=True)
                out.write(json.dumps({
                    "template": name, "tokenizer": kind, "eos_token": end, "messages": messages,
                    "text": text, "ids": encoded["input_ids"],
                    "mask": mask_of(encoded, answers(name, messages, text, end))},
                    ensure_ascii=False) + "\n")


main()
