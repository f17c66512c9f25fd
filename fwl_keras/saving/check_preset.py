"""A KerasHub preset, checked before KerasHub builds anything from it."""

from keras_hub.src.utils.preset_utils import check_file_exists, load_json

from fwl_keras.saving.check_config import check_config

CONFIG = "config.json"
_OBJECTS = (CONFIG, "preprocessor.json", "task.json", "tokenizer.json")


def check_preset(preset: str, registered_task: str) -> None:
    """Refuse a preset whose files name what `check_config` refuses.

    Presets in the formats of other libraries hold numbers alone, which KerasHub translates.

    Args:
        preset: whatever KerasHub takes for one.
        registered_task: registered name by which a task is known to be this package's.

    Raises:
        ValueError: if one of its files is no object, or names what is not allowed.
    """
    if not check_file_exists(preset, CONFIG) or "registered_name" not in load_json(preset, CONFIG):
        return
    for file in _OBJECTS:
        if not check_file_exists(preset, file):
            continue
        config = load_json(preset, file)
        if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
            raise ValueError(
                f"The preset {preset!r} has a {file} that holds no configuration of an object; "
                "write it again with `save_to_preset`."
            )
        ours = config.get("registered_name") == registered_task
        try:
            check_config(config["config"] if ours else config)
        except ValueError as error:
            raise ValueError(f"The preset {preset!r} is refused for its {file}: {error}") from error
