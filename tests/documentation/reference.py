"""docs/configuration.md, made of the schema, the model's defaults and the meanings."""

from __future__ import annotations

from collections.abc import Iterator

from documentation.values import MODELS, Key, default, keys, section, takes
from swanroam.config.meanings import MEANINGS

HEAD = """\
# The configuration file

`/etc/swanroam/swanroam.yaml`, or what `--config FILE` names. One YAML document. `swanroam check-config` says what is
wrong with it, all at once, with line and column; the daemon reads it the same way. This page is made from the code
(`make docs`).

The least that a file has, on a host that moves:

```yaml
identity: mobile.example.org
peers:
  - identity: correspondent.example.org
    connection: correspondent
```

Complete files: [mobile.yaml](examples/mobile.yaml), [correspondent.yaml](examples/correspondent.yaml).

**In an editor.** With the YAML language server (VS Code, Neovim, Emacs and others) this first line gives completion,
explanations and most errors while you type. It names the place of [swanroam.schema.json](schemas/swanroam.schema.json):

    # yaml-language-server: $schema=/path/to/swanroam.schema.json

**How values are written**

| | |
|---|---|
| duration | a number with `ms`, `s`, `m` or `h`: `500ms`, `30s`, `5m`, `1h`, `1.5s`. Without a unit: seconds |
| whole number | without quotes; `0x` for hexadecimal, no leading zeros |
| text | in quotes where YAML would take it for something else: `"no"`, `"0123"`, `"*"`, and with `: ` in it |
| list | `[a, b]`, or one item a line, each after `- ` |
| IPv6 address or prefix | best in quotes; in `[…]` and `{…}` always |
| glob | `*` any characters, `?` one, `[ab]` one of these |

A key may stand once. Unknown keys are errors. Anchors, aliases, tags and merge keys are not taken: what peers have in
common stands in `defaults`.

"""

TITLES = {"": "Top level", "peers": "`peers` and `defaults`"}

PEERS = """\
Each item of `peers` is one host:

```yaml
defaults:
  grace: 30s
peers:
  - identity: server.example.org
    connection: server
  - identity: gateway.example.org
    connection: gateway
    grace: 5s
```

"""


def render() -> str:
    """The page."""
    return HEAD + _overview() + "".join(_section(name) for name in MODELS)


def title(name: str) -> str:
    """The heading of a section."""
    return TITLES.get(name, f"`{name}`")


def _overview() -> str:
    rows = [
        f"| {title(name)} | {', '.join(f'[{key.name}](#{_anchor(key)})' for key in keys(name))} |" for name in MODELS
    ]
    return "\n".join(["| section | keys |", "|---|---|", *rows]) + "\n\n"


def _anchor(key: Key) -> str:
    """As forges make it of a heading: letters, digits, hyphens and underscores are left."""
    return key.path.replace(".", "")


def _section(name: str) -> str:
    intro = f"{MEANINGS[name].text}\n\n" if name else ""
    if name == "peers":
        intro = f"{MEANINGS['peers'].text} {MEANINGS['defaults'].text}\n\n{PEERS}"
    return f"## {title(name)}\n\n{intro}" + "".join(_key(key) for key in keys(name))


def _key(key: Key) -> str:
    return "\n".join([f"### {key.path}", "", *_facts(key), "", key.meaning.text, *_words(key), "", ""])


def _facts(key: Key) -> Iterator[str]:
    yield f"- takes: {takes(key.kind)}"
    yield f"- default: {default(key)}" if not key.required else "- required"
    yield f"- example: `{key.name}: {key.meaning.example}`"
    if key.section == "peers":
        shared = key.name in section("defaults").keys
        yield "- stands in: an item of `peers`" + (", or `defaults` for all of them" if shared else "")


def _words(key: Key) -> list[str]:
    words = [f"- `{word}`: {meaning}" for word, meaning in key.meaning.words.items()]
    return ["", *words] if words else []
