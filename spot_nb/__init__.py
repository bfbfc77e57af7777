"""Fix a language model's mistakes without making it forget. Names are loaded when they are asked for."""
__version__ = "0.1.0"

_NAMES = {
    "SpotError": "records",
    "Task": "tasks",
    "is_correct": "verify",
    "change_ratio": "diff",
    "edit_spans": "diff",
    "load_pairs": "pairs",
    "filter_pairs": "pairs",
    "spot_bco": "losses",
    "spot_bce": "losses",
    "pair_logps": "logps",
    "SPoTConfig": "train",
    "SPoTTrainer": "train",
}
__all__ = list(_NAMES)


def __getattr__(name):
    if name not in _NAMES: raise AttributeError(f"module 'spot_nb' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"spot_nb.{_NAMES[name]}"), name)


def __dir__(): return sorted({*globals(), *_NAMES})
