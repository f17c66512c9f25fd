"""A client for gRPC: states travel as they are, which is several times less than in JSON.

    pip install "fwl_keras[serving]"
    python client_grpc.py --model my_lm --read manual.txt --keep session.npz "To reset it, "

With --keep the session goes on where it ended the last time.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(arguments: list[str] | None = None) -> None:
    """Go on with a session, or begin one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", help="what to write on from")
    parser.add_argument("--model", default="my_lm")
    parser.add_argument("--server", default="localhost:8500")
    parser.add_argument("--read", type=Path, help="a file to read first")
    parser.add_argument("--keep", type=Path, help="where the session is kept")
    parser.add_argument("--tokens", type=int, default=40, help="tokens to write")
    args = parser.parse_args(arguments)

    from fwl_keras.serving.client import Client

    try:
        client = Client.grpc(args.server, args.model)
        begun = args.keep is not None and args.keep.exists()
        session = client.session(args.keep if begun else None)
        if args.read is not None:
            count = session.read(args.read.read_text("utf-8"))
            print(f"read: {count} tokens")
        written = session.generate(args.text, max_new_tokens=args.tokens)
        print(f"generate: {args.text}{written.text}")
        if args.keep is not None:
            session.save(args.keep)
            print(f"The session is kept in {args.keep}; --keep {args.keep} goes on with it.")
    except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
