"""SavedModels through TensorFlow's C interface, with no Python of TensorFlow's.

TensorFlow Serving is a program in C++ around the same runtime: what loads and runs here, from
`saved_model.pb` and the kernels alone, does so there. Needs the packages `tensorflow` and
`tensorflow-text` for their libraries only; neither is imported.
"""

import ctypes
import importlib.util
from pathlib import Path

import numpy as np

# Numbers of TF_DataType.
_DTYPES = {1: "float32", 3: "int32", 7: "object", 9: "int64", 10: "bool"}
_NUMBERS = {name: number for number, name in _DTYPES.items()}
_STRING = _NUMBERS["object"]
# The last two bits of a TF_TString say how it is kept.
_SMALL, _LARGE, _OFFSET, _VIEW = range(4)
_STRING_BYTES = 24


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class CModel:
    """A SavedModel in a session of the C runtime, as a server loads it.

    Args:
        path: version directory.
        config: a serialised `ConfigProto`.

    Raises:
        RuntimeError: with the runtime's message, if it cannot be loaded.
    """

    def __init__(self, path: str | Path, config: bytes = b""):
        self._c = _load_library()
        self._graph = ctypes.c_void_p(self._c.TF_NewGraph())
        self._status = ctypes.c_void_p(self._c.TF_NewStatus())
        for library in sorted(_package("tensorflow_text").rglob("*_tokenizer.so")):
            self._c.TF_LoadLibrary(str(library).encode(), self._status)
            self._check()
        options = ctypes.c_void_p(self._c.TF_NewSessionOptions())
        self._c.TF_SetConfig(options, config, ctypes.c_size_t(len(config)), self._status)
        self._check()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = ctypes.c_void_p(
            self._c.TF_LoadSessionFromSavedModel(
                options, None, str(path).encode(), tags, 1, self._graph, None, self._status
            )
        )
        self._check()

    def __call__(self, feeds: dict[str, np.ndarray], fetches: list[str]) -> list[np.ndarray]:
        """Run the graph.

        Args:
            feeds: arrays by tensor name, as `score_text:0`; strings as object arrays of bytes.
            fetches: tensor names.

        Returns:
            An array for each fetch.

        Raises:
            RuntimeError: with the runtime's message, if it fails.
        """
        kept = [np.asarray(value) for value in feeds.values()]
        made = [self._tensor(value) for value in kept]
        inputs = (ctypes.c_void_p * len(made))(*(tensor for tensor, _ in made))
        outputs = (ctypes.c_void_p * len(fetches))()
        self._c.TF_SessionRun(
            self._session,
            None,
            self._places(feeds),
            inputs,
            len(made),
            self._places(fetches),
            outputs,
            len(fetches),
            None,
            0,
            None,
            self._status,
        )
        for tensor, _ in made:
            self._c.TF_DeleteTensor(ctypes.c_void_p(tensor))
        self._check()
        arrays = [self._array(ctypes.c_void_p(one)) for one in outputs]
        for one in outputs:
            self._c.TF_DeleteTensor(ctypes.c_void_p(one))
        return arrays

    def _places(self, names):
        places = (_Output * len(names))()
        for place, name in zip(places, names, strict=True):
            operation, _, index = name.partition(":")
            place.operation = self._c.TF_GraphOperationByName(self._graph, operation.encode())
            place.index = int(index or 0)
            if not place.operation:
                raise RuntimeError(f"The graph has no operation {operation!r}.")
        return places

    def _tensor(self, value):
        """A tensor, and what must live as long as it does."""
        number = _NUMBERS[str(value.dtype)]
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        data, alive = np.ascontiguousarray(value), None
        if number == _STRING:
            # Strings as views of memory that stays ours.
            alive = [ctypes.create_string_buffer(one, len(one)) for one in value.reshape(-1)]
            words = [
                word
                for one, buffer in zip(value.reshape(-1), alive, strict=True)
                for word in (len(one) << 2 | _VIEW, ctypes.addressof(buffer), 0)
            ]
            data = np.array(words, "uint64")
        tensor = self._c.TF_AllocateTensor(number, shape, value.ndim, data.nbytes)
        target = self._c.TF_TensorData(ctypes.c_void_p(tensor))
        if data.nbytes:
            ctypes.memmove(target, data.ctypes.data, data.nbytes)
        return tensor, alive

    def _array(self, tensor):
        number = self._c.TF_TensorType(tensor)
        shape = [self._c.TF_Dim(tensor, i) for i in range(self._c.TF_NumDims(tensor))]
        start = self._c.TF_TensorData(tensor)
        count = int(np.prod(shape))
        if number == _STRING:
            strings = np.empty(count, object)
            for i in range(count):
                strings[i] = _read_string(start + i * _STRING_BYTES)
            return strings.reshape(shape)
        data = ctypes.string_at(start, self._c.TF_TensorByteSize(tensor))
        return np.frombuffer(data, _DTYPES[number]).reshape(shape)

    def _check(self):
        if self._c.TF_GetCode(self._status):
            raise RuntimeError(self._c.TF_Message(self._status).decode())


def _read_string(address) -> bytes:
    first = ctypes.c_uint8.from_address(address).value
    kind = first & 3
    if kind == _SMALL:
        return ctypes.string_at(address + 1, first >> 2)
    if kind == _OFFSET:
        size, offset = (ctypes.c_uint32.from_address(address + i).value for i in (0, 4))
        return ctypes.string_at(address + offset, size >> 2)
    size = ctypes.c_uint64.from_address(address).value >> 2
    place = address + (16 if kind == _LARGE else 8)
    return ctypes.string_at(ctypes.c_uint64.from_address(place).value, size)


def _load_library():
    # In this order, and for all: the operations' libraries look for symbols in them.
    folder = _package("tensorflow")
    names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
    libraries = [ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in names]
    c = libraries[-1]
    functions = {
        "TF_NewGraph": ctypes.c_void_p,
        "TF_NewStatus": ctypes.c_void_p,
        "TF_NewSessionOptions": ctypes.c_void_p,
        "TF_LoadLibrary": ctypes.c_void_p,
        "TF_LoadSessionFromSavedModel": ctypes.c_void_p,
        "TF_GraphOperationByName": ctypes.c_void_p,
        "TF_AllocateTensor": ctypes.c_void_p,
        "TF_TensorData": ctypes.c_void_p,
        "TF_TensorByteSize": ctypes.c_size_t,
        "TF_Dim": ctypes.c_int64,
        "TF_Message": ctypes.c_char_p,
    }
    for name, result in functions.items():
        getattr(c, name).restype = result
    c.TF_AllocateTensor.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_size_t,
    )
    return c


def _package(name) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise RuntimeError(f"Install {name.replace('_', '-')}.")
    return Path(spec.origin).parent
