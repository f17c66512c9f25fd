"""A client in Python alone: nothing to install.

    python client_rest.py --model my_lm "def main("

It scores the text, writes on from it, and holds a session: the model reads a file, adapts to it,
and goes on from there. The session's state is part of every request and every answer.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def call(url: str, signature: str, inputs: dict) -> dict:
    """Ask a signature; every input is a list with an entry for each row."""
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=300) as response:
            outputs = json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        sys.exit(f"The server refused the request: {error.read().decode()}")
    except OSError as error:
        sys.exit(f"{url} gave no answer: {error}")
    for row, status in enumerate(outputs["status"]):
        if status:
            sys.exit(f"Row {row} was refused: {outputs['message'][row]}")
    return outputs


def state_of(outputs: dict) -> dict:
    """Return the entries of an answer that a session goes on with."""
    names = ("anchor_", "running_", "missing_", "pending_", "position")
    return {name: value for name, value in outputs.items() if name.startswith(names)}


def main(arguments: list[str] | None = None) -> None:
    """Call the server in the three ways there are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", help="what to score, and what to write on from")
    parser.add_argument("--model", default="my_lm")
    parser.add_argument("--server", default="http://localhost:8501")
    parser.add_argument("--read", type=Path, help="a file to read before writing on")
    parser.add_argument("--tokens", type=int, default=40, help="tokens to write")
    args = parser.parse_args(arguments)
    url = f"{args.server}/v1/models/{args.model}:predict"

    scored = call(url, "score", {"text": [args.text]})
    count, perplexity = scored["token_count"][0], scored["perplexity"][0]
    print(f"score: {count} tokens, perplexity {perplexity:.2f}")

    # One entry for each row: a request may have many.
    writing = {
        "max_new_tokens": [args.tokens],
        "temperature": [0.8],
        "top_k": [0],
        "top_p": [0.9],
        "seed": [1],
    }
    written = call(url, "generate", {"text": [args.text], **writing})
    print(f"generate: {args.text}{written['text'][0]}")

    if args.read is not None:
        state = state_of(call(url, "initial_state", {"text": [""]}))
        # One request takes so many tokens as the model's cap says: longer files go in parts.
        read = call(url, "read", {"text": [args.read.read_text("utf-8")], **state})
        state = state_of(read)
        written = call(url, "generate_from", {"text": [args.text], **writing, **state})
        print(f"after {read['token_count'][0]} tokens read: {args.text}{written['text'][0]}")


if __name__ == "__main__":
    main()
