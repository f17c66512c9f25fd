"""What importing the package does and does not do."""

import subprocess
import sys


def in_fresh_process(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split()


def loaded_by(code):
    """Top-level modules that are loaded after `code`."""
    listing = "print(*{m.split('.')[0] for m in sys.modules})"
    return set(in_fresh_process(f"import sys; {code}; {listing}"))


def test_import_takes_in_nothing_heavy():
    # Keras itself looks for visualisation libraries; what counts is what comes on top of it.
    extra = loaded_by("import fwl_keras") - loaded_by("import keras")
    assert "fwl_keras" in extra
    heavy = {"keras_hub", "tensorflow_text", "official", "tf_keras", "matplotlib", "sentencepiece"}
    assert extra & heavy == set()


def test_import_registers_the_classes():
    code = (
        "import fwl_keras, keras;"
        "print(keras.saving.get_registered_object('fwl_keras>FWLCausalLM').__name__)"
    )
    assert in_fresh_process(code)[-1] == "FWLCausalLM"


def test_help_of_the_command_loads_no_framework():
    code = (
        "import sys; sys.argv = ['fwl-keras', '--help']\n"
        "from fwl_keras.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*('tensorflow' in sys.modules, 'keras' in sys.modules))"
    )
    assert in_fresh_process(code)[-2:] == ["False", "False"]


def test_parts_of_the_package_are_attributes_that_are_imported_when_asked_for():
    code = (
        "import sys, fwl_keras\n"
        "before = set(sys.modules)\n"
        "assert not {'fwl_keras.data', 'fwl_keras.serving', 'sentencepiece'} & before\n"
        "for name in ('data', 'evaluation', 'layers', 'models', 'ops', 'serving'):\n"
        "    assert name in dir(fwl_keras)\n"
        "    assert getattr(fwl_keras, name) is sys.modules[f'fwl_keras.{name}'], name\n"
        "print(fwl_keras.data.load_corpus.__name__, hasattr(fwl_keras, 'no_such_part'))"
    )
    assert in_fresh_process(code)[-2:] == ["load_corpus", "False"]
