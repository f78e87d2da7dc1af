"""What a small vocabulary does not know: a model trained on a few words answers nonsense to the others."""

from __future__ import annotations

from typing import Any

SMALL_VOCABULARY = 1000


def unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """The pieces of ``text`` that become the unknown token, each once; a tokenizer without that token knows all."""
    if getattr(tokenizer, "unk_token_id", None) is None:
        return ()
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    found = [text[start:end].strip() for token, (start, end) in pairs if token == tokenizer.unk_token_id]
    return tuple(dict.fromkeys(filter(None, found)))


def all_words(tokenizer: Any) -> tuple[str, ...]:
    """Every word of a vocabulary that is small enough to be read, in order of the ids; empty for others."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) > SMALL_VOCABULARY:
        return ()
    special = set(tokenizer.all_special_tokens)
    return tuple(word for word in sorted(vocabulary, key=vocabulary.__getitem__) if word not in special)
