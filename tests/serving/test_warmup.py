import pytest
import tensorflow as tf

from fwl_keras.serving import warmup

pytest.importorskip("tensorflow_serving")

# The export is made in the process that has it already.


@pytest.fixture(scope="module")
def version(exported):
    return exported()


def test_every_signature_answers_its_warm_up_request(version, served):
    model = served()._model
    requests = warmup.read_requests(version)
    assert sorted(name for name, _ in requests) == sorted(model.signatures)
    for name, inputs in requests:
        outputs = model.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        assert outputs["status"].numpy().tolist() == [0], (name, outputs["message"].numpy())


def test_requests_name_model_and_signature(version):
    from tensorflow_serving.apis import prediction_log_pb2

    assert (version / warmup.FILE).stat().st_size < 20_000
    records = tf.data.TFRecordDataset(str(version / warmup.FILE)).as_numpy_iterator()
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.predict_log.request.model_spec.name == version.parent.name


def test_without_the_extra_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_serving.apis", None)
    assert not warmup.write_requests(tmp_path, {"score": {}}, "lm")
    assert not any(tmp_path.iterdir())
    with pytest.raises(ImportError):
        warmup.read_requests(tmp_path)
    assert "fwl_keras[serving]" in warmup.MISSING


def test_no_file_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="install the extra"):
        warmup.read_requests(tmp_path)
