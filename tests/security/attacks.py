"""Hostile files: what an attacker would put in, where, and how to see that it ran."""

import copy
import json
import sys
import zipfile

import keras

from fwl_keras import FWLBlock, FWLCausalLM
from fwl_keras.backbones import RecurrentBackbone

V, WIDTH = 23, 8

# Importing it leaves a file behind, and so does everything in it.
HOSTILE_MODULE = """
import keras
from pathlib import Path

def run(*args, **kwargs):
    Path({canary!r}).write_text("ran")

class Evil(keras.layers.Layer):
    from_config = classmethod(run)

run()
"""

# Files that Python has opened to read; hooks cannot be taken away again, so there is one.
_read = []


def _note(event, arguments):
    if event == "open" and "w" not in (arguments[1] or "r"):
        _read.append(str(arguments[0]))


sys.addaudithook(_note)


def was_read(path) -> bool:
    return str(path) in _read


def small_model():
    body = RecurrentBackbone([keras.layers.Embedding(V, WIDTH), keras.layers.GRU(WIDTH)])
    lm = FWLCausalLM(body, FWLBlock(WIDTH, V, unembedding=keras.layers.Dense(V)))
    lm(keras.ops.ones((1, 4), "int32"))
    return lm


def functional_model():
    """With a Lambda layer, which Keras builds in safe mode if its function has a name."""
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, WIDTH)(ids)
    x = keras.layers.Lambda(keras.ops.relu, output_shape=(None, WIDTH))(x)
    x = keras.layers.Dense(WIDTH, activation="gelu")(x)
    return FWLCausalLM(keras.Model(ids, x), FWLBlock(WIDTH, V))


def serialized(lm):
    """As in a file's config.json."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(lm)))


def put(config, place, payload):
    """A copy of a configuration with a payload at a place, a path of keys and indices."""
    config = copy.deepcopy(config)
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = payload
    return config


def write_archive(path, config, **members):
    """A `.keras` file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def named(module, name, config=None, **more):
    return {
        "module": module,
        "class_name": name,
        "config": {} if config is None else config,
        "registered_name": name,
        **more,
    }


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def marshalled(canary):
    """A Python lambda, as Keras writes it into a file."""
    # Evaluated, to have the path among its constants: Keras does not load a lambda's defaults.
    run = eval(f"lambda x: open({str(canary)!r}, 'w').close()")
    return keras.layers.Lambda(run).get_config()["function"]


def lambda_layer(fn, **arguments):
    return named("keras.layers", "Lambda", {"name": "l", "function": fn, "arguments": arguments})


def drawing(canary, kind):
    """A function of Keras that writes a picture to any path, named as a function or a class."""
    module, name = "keras.visualization", "plot_image_gallery"
    fn = function(module, name) if kind == "function" else named(module, name)
    return lambda_layer(fn, path=str(canary), rows=1, cols=1, value_range=[0, 255])


def not_refused(config, place, payloads, canary):
    """The payloads that are not refused by name at a place, each in a file of its own."""
    missed = []
    for attack, (payload, what) in payloads.items():
        hostile = put(config, place, payload(canary))
        path = write_archive(canary.with_name("lm.keras"), hostile)
        try:
            keras.saving.load_model(path)
            message = "nothing was raised"
        except ValueError as error:
            message = str(error)
        if canary.exists() or not any(one in message for one in what.split("|")):
            missed.append((attack, canary.exists(), message))
    return missed
