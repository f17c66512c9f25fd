"""What importing the package does and does not do."""

import subprocess
import sys


def in_fresh_process(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split()


def test_importing_registers_the_classes_and_takes_in_nothing_heavy():
    """And parts of the package are attributes, imported when asked for."""
    # Keras itself looks for visualisation libraries; what counts is what comes on top of it.
    code = (
        "import sys, keras\n"
        "loaded = lambda: {name.partition('.')[0] for name in sys.modules}\n"
        "before = loaded()\n"
        "import fwl_keras\n"
        "print(keras.saving.get_registered_object('fwl_keras>FWLCausalLM').__name__)\n"
        "print(*loaded() - before)\n"
        "before = set(sys.modules)\n"
        "assert not {'fwl_keras.data', 'fwl_keras.serving', 'sentencepiece'} & before\n"
        "for name in ('data', 'evaluation', 'layers', 'models', 'ops', 'serving'):\n"
        "    assert name in dir(fwl_keras)\n"
        "    assert getattr(fwl_keras, name) is sys.modules[f'fwl_keras.{name}'], name\n"
        "print(fwl_keras.data.load_corpus.__name__, hasattr(fwl_keras, 'no_such_part'))"
    )
    found, *extra, function, no_such_part = in_fresh_process(code)
    assert found == "FWLCausalLM"
    assert (function, no_such_part) == ("load_corpus", "False")
    heavy = {"keras_hub", "tensorflow_text", "official", "tf_keras", "matplotlib", "sentencepiece"}
    assert "fwl_keras" in extra and not heavy & set(extra)


def test_help_of_the_command_loads_no_framework():
    code = (
        "import sys; sys.argv = ['fwl-keras', '--help']\n"
        "from fwl_keras.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*('tensorflow' in sys.modules, 'keras' in sys.modules))"
    )
    assert in_fresh_process(code)[-2:] == ["False", "False"]
