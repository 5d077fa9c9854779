# SPDX-License-Identifier: Apache-2.0
"""The chat templates of a tokenizer, and what one makes of messages."""
import json
import pathlib
import re
import secrets

from refusal import Refusal


def read_text(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def named_templates(value):
    """{name: text} of the chat_template of a tokenizer_config.json."""
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(
            isinstance(one, dict) and isinstance(one.get("name"), str) and
            isinstance(one.get("template"), str) for one in value):
        return {one["name"]: one["template"] for one in value}
    raise Refusal("chat_template: must be a text, or a list of {name, template}")


def read_templates(tokenizer, template):
    """({name: text}, {bos_token: text, ...}, the file that they are from)."""
    texts, tokens, origin = {}, {}, None
    if tokenizer is not None:
        path = pathlib.Path(tokenizer)
        if path.is_dir():
            path = path / "tokenizer_config.json"
        elif path.name.endswith("tokenizer.json"):
            path = path.with_name(path.name[:-len("tokenizer.json")] + "tokenizer_config.json")
        elif not path.name.endswith("tokenizer_config.json"):
            raise Refusal(f"--tokenizer {tokenizer}: must be a directory, its tokenizer.json or its "
                          "tokenizer_config.json", 64)
        try:
            config = json.loads(read_text(path))
            if not isinstance(config, dict):
                raise Refusal("must be a JSON object")
            for key, value in config.items():
                if isinstance(value, dict):
                    value = value.get("content")
                if key.endswith("_token") and isinstance(value, str):
                    tokens[key] = value
            if config.get("chat_template") is not None:
                texts, origin = named_templates(config["chat_template"]), path
        except (ValueError, RecursionError) as error:
            raise Refusal(f"{path}: is no JSON: {error}") from None
        except Refusal as error:
            raise Refusal(str(error) if str(path) in str(error) else f"{path}: {error}") from None
        beside = path.with_name("chat_template.jinja")
        if template is None and beside.exists():
            texts, origin = {"default": read_text(beside)}, beside
            for more in sorted(path.parent.glob("additional_chat_templates/*.jinja")):
                texts[more.stem] = read_text(more)
    if template is not None:
        origin = pathlib.Path(template)
        texts = {"default": read_text(origin)}
    if not texts:
        raise Refusal(f"{path}: has no chat_template, nor is there a chat_template.jinja beside it; "
                      "--template names a file")
    return texts, tokens, origin


class Template:
    """A chat template that tells what it writes within {% generation %} blocks."""

    def __init__(self, text, origin, variables, now):
        import jinja2
        import jinja2.ext
        import jinja2.meta
        import jinja2.nodes
        import jinja2.sandbox

        # Marks that no text has, as they are drawn anew: they stay in their places whatever the
        # template does with the text around them.
        self.key = secrets.token_hex(16)
        self.begin, self.end = f"\ue000{self.key}\ue001", f"\ue001{self.key}\ue000"
        self.origin, self.variables, self.error = origin, variables, jinja2.TemplateError
        template = self
        self.marks = False

        class GenerationBlocks(jinja2.ext.Extension):
            tags = {"generation"}

            def parse(self, parser):
                template.marks = True
                line = next(parser.stream).lineno
                body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
                call = self.call_method("marked")
                return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

            def marked(self, caller):
                return template.begin + caller() + template.end

        def raise_exception(message):
            raise jinja2.TemplateError(message)

        def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
            return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent,
                              separators=separators, sort_keys=sort_keys)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True,
            extensions=[GenerationBlocks, jinja2.ext.loopcontrols])
        environment.filters["tojson"] = tojson  # Jinja's own writes for HTML
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: now.strftime(form)
        try:
            self.template = environment.from_string(text)
            self.names = jinja2.meta.find_undeclared_variables(environment.parse(text))
        except jinja2.TemplateSyntaxError as error:
            raise Refusal(f"{origin}: chat_template line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise Refusal(f"{origin}: the chat_template is nested too deeply") from None

    def render(self, messages, record, prompt):
        """(text, [(begin, end) of what is in generation blocks])."""
        given = {"tools": record.get("tools"), "documents": record.get("documents"),
                 **self.variables}
        try:
            marked = self.template.render(messages=messages, add_generation_prompt=prompt, **given)
        except self.error as error:
            raise Refusal(f"the template refuses it: {error}") from None
        except Exception as error:  # the template's code failed
            raise Refusal(f"the template fails on it: {type(error).__name__}: {error}") from None
        for message in messages:
            content = message.get("content")
            if isinstance(content, list) and content and str(content) in marked:
                raise Refusal("the template writes a content that is a list as Python prints it: "
                              "content must be one text")
        parts, spans, length, begin = [], [], 0, None
        for part in re.split(f"({self.begin}|{self.end})", marked):
            if part in (self.begin, self.end):
                if (part == self.begin) != (begin is None):
                    raise Refusal("the template's generation blocks stand within one another")
                if begin is not None:
                    spans.append((begin, length))
                begin = length if begin is None else None
            else:
                parts.append(part)
                length += len(part)
        text = "".join(parts)
        if self.key in text.lower():
            raise Refusal("the template changes the letters around its generation blocks, so that "
                          "their places are lost")
        return text, spans
