"""Lets Keras load a model whose class is imported only when it is needed."""

import keras


@keras.saving.register_keras_serializable(package="fwl_keras", name="KerasHubFWLCausalLM")
class KerasHubStandIn:
    """Registered in place of KerasHubFWLCausalLM until that is imported, KerasHub with it."""

    @classmethod
    def from_config(cls, config: dict, custom_objects=None):
        """`KerasHubFWLCausalLM.from_config`."""
        from fwl_keras.models.keras_hub_causal_lm import KerasHubFWLCausalLM

        return KerasHubFWLCausalLM.from_config(config, custom_objects=custom_objects)

    def get_config(self) -> dict:
        """Exist, because Keras registers no class without it."""
        raise NotImplementedError("KerasHubStandIn is never an object, so it is never saved.")
