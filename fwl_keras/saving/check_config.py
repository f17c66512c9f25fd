"""A saved configuration, checked before anything in it is built."""

import importlib
import types
from collections.abc import Iterator

import keras

# Not public, but the only place where Keras says whether a file is trusted.
from keras.src.saving.serialization_lib import in_safe_mode

from fwl_keras.saving.saved_classes import SAVED_CLASSES, registered_name

# What Keras builds by itself; it imports nothing from elsewhere.
_PACKAGES = ("keras", "keras_hub", "keras_nlp", "keras_cv")

# Values that Keras writes as if they were objects.
_VALUES = (
    "__keras_tensor__",
    "__tensor__",
    "__numpy__",
    "__bytes__",
    "__ellipsis__",
    "__slice__",
)

# Where Keras looks for a built-in that has a name and no module.
_BUILTINS = (
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.regularizers",
)

# Functions of Keras that compute, and do nothing else; others read and write files.
_FUNCTION_MODULES = (
    *_BUILTINS,
    "keras.ops",
    "keras.ops.image",
    "keras.ops.linalg",
    "keras.ops.nn",
    "keras.ops.numpy",
    "keras.random",
)
_NO_COMPUTATION = ("get", "serialize", "deserialize")

# Modules whose classes may come without a module, as files of older versions have them.
_WITHOUT_MODULE = (*_BUILTINS, "keras.dtype_policies", "keras.layers", "keras.models")

# Arguments of tokenisers and lookup layers that may be a list or dict, or a path. A saved model
# has its vocabulary inside.
_FILE_ARGUMENTS = ("vocabulary", "merges", "special_tokens", "language_tokens", "proto")

# KerasHub takes a `proto` for a path unless it is longer than this, and base64.
_LONGEST_PATH = 2048

_REMEDY = (
    "If it is yours, register it with `keras.saving.register_keras_serializable` or give it in "
    "`custom_objects`; else do not load this file."
)


def check_config(config, custom_objects: dict | None = None) -> None:
    """Refuse a saved configuration that names more than it may; import what it needs of ours.

    Keras' safe mode keeps marshalled lambdas out, but builds every class and calls every function
    that Keras has, and some of those read and write files. Allowed are classes of Keras and
    KerasHub, functions of Keras that only compute, the classes in `SAVED_CLASSES`, and whatever
    the process has registered itself. With `safe_mode=False` the file is trusted: then only what
    it names of this package is checked.

    Args:
        config: what `get_config` returned, or `keras.saving.serialize_keras_object`.
        custom_objects: names and the classes or functions that the caller gives for them.

    Raises:
        ValueError: if something in it is not allowed.

    Example:
        >>> check_config(lm.get_config())
    """
    trusted = in_safe_mode() is False
    for entry in _named_entries(config, custom_objects):
        if _is_ours(entry):
            _import_own(entry)
        elif not trusted:
            _check_entry(entry, custom_objects)


def _named_entries(config, custom_objects) -> Iterator[dict]:
    """Yield the dicts in it that stand for an object, each before what is in it."""
    # Not by recursion, which a file of many brackets would exhaust.
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, dict):
            if "class_name" in value:
                yield value
            pending.extend(_inner_values(value, custom_objects))


def _inner_values(entry, custom_objects):
    """Return all in a dict but what an adapter holds of Keras 2, and checks by other rules."""
    inner, registered = entry.get("config"), entry.get("registered_name")
    if not isinstance(inner, dict) or not isinstance(registered, str):
        return entry.values()
    adapter = keras.saving.get_registered_object(registered, custom_objects)
    others = getattr(adapter, "keras2_arguments", ())
    # Without a module Keras goes by the class's name alone.
    if not entry.get("module") or entry.get("class_name") != getattr(adapter, "__name__", None):
        others = ()
    return [
        *(value for name, value in entry.items() if name != "config"),
        *(value for name, value in inner.items() if name not in others),
    ]


def _is_ours(entry):
    module = entry.get("module")
    return isinstance(module, str) and module.split(".")[0] == "fwl_keras"


def _import_own(entry):
    """Import one of our modules that are not imported with the package, as adapters."""
    module, name = entry["module"], entry.get("class_name")
    registered = entry.get("registered_name")
    if name not in SAVED_CLASSES.get(module, ()) or registered != registered_name(name):
        raise ValueError(
            f"`config` names {f'{module}.{name}'!r} (registered as {registered!r}), which is none "
            "of the classes that this version of fwl_keras saves. Use the version that wrote the "
            "file, if that was fwl_keras; else do not load it."
        )
    importlib.import_module(module)


def _check_entry(entry, custom_objects):
    name, module = entry["class_name"], entry.get("module")
    if not isinstance(name, str) or not isinstance(module, str | None):
        raise ValueError(
            f"`config` names {name!r} of the module {module!r}, which are not both strings; do "
            "not load this file."
        )
    if name == "function":
        _check_function(entry.get("config"), module, custom_objects)
        return
    if name.startswith("__"):
        if name not in _VALUES:
            what = "a Python lambda" if name == "__lambda__" else f"{name!r}"
            raise ValueError(
                f"`config` has {what}, which could run any code. If you trust the file, load it "
                "with `safe_mode=False`."
            )
        return
    by_name = name if "module" not in entry else entry.get("registered_name", name)
    if not _is_registered(by_name, custom_objects):
        _check_class(name, module)
    inner = entry.get("config")
    for argument in _FILE_ARGUMENTS:
        value = inner.get(argument) if isinstance(inner, dict) else None
        if isinstance(value, str) and (argument != "proto" or len(value) <= _LONGEST_PATH):
            raise ValueError(
                f"`config` of {name!r} has `{argument}`={value!r}, a file outside of "
                "what is loaded. If you trust the file, load it with `safe_mode=False`."
            )


def _check_class(name, module):
    if module is None:
        allowed = any(isinstance(_public(one, name), type) for one in _WITHOUT_MODULE)
    elif module == "keras" or (module.startswith("keras.") and not module.startswith("keras.src.")):
        allowed = isinstance(_public(module, name), type)
    else:
        # Of these Keras takes the classes of objects that can be saved, and nothing else.
        allowed = module.split(".")[0] in _PACKAGES
    if not allowed:
        full_name = name if module is None else f"{module}.{name}"
        raise ValueError(
            f"`config` names {full_name!r}, which is neither a class of Keras, KerasHub or "
            f"fwl_keras nor registered with Keras. {_REMEDY}"
        )


def _check_function(name, module, custom_objects):
    if _is_registered(name, custom_objects):
        return
    modules = _BUILTINS if module == "builtins" else (module,)
    found = [
        _public(one, name)
        for one in modules
        if one in _FUNCTION_MODULES and isinstance(name, str) and name not in _NO_COMPUTATION
    ]
    found = [one for one in found if one is not None]
    if not found or not all(isinstance(one, types.FunctionType) for one in found):
        raise ValueError(
            f"`config` names the function {f'{module}.{name}'!r}, which is neither one of Keras' "
            f"activations, losses, operations and the like nor registered with Keras. {_REMEDY}"
        )


def _is_registered(name, custom_objects):
    return (
        isinstance(name, str)
        and keras.saving.get_registered_object(name, custom_objects) is not None
    )


def _public(module, name):
    """Return what Keras exports under a name, or None."""
    found = keras
    for part in (*module.split(".")[1:], name):
        found = getattr(found, part, None)
    return found
