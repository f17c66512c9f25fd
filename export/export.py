"""Write a model for TensorFlow Serving.

python export.py runs/my_book models/my_lm        # a run: as `fwl-keras export`
python export.py my_lm.keras models/my_lm/1       # any saved FWLCausalLM with a tokeniser
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(arguments: list[str] | None = None) -> None:
    """Export what is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a run's directory, or a .keras file")
    parser.add_argument("to", type=Path, help="the model's directory; of a file, the version's")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args(arguments)

    import keras

    import fwl_keras  # noqa: F401  (so that Keras knows the classes)
    from fwl_keras.runs.export import export_run
    from fwl_keras.serving.export import export_model, serve_command
    from fwl_keras.serving.options import ServingOptions

    options = ServingOptions(args.max_tokens, args.max_new_tokens, args.dtype)
    try:
        if args.source.is_dir():
            path = export_run(args.source, args.to, options=options, progress=True)
        else:
            lm = keras.saving.load_model(args.source, compile=False)
            path = export_model(lm, args.to, options, progress=True)
    except ValueError as error:
        parser.error(str(error))
    print(f"{path} is written. Serve it with: {serve_command(path)}")


if __name__ == "__main__":
    main()
