"""`LoaderOptions`: arguments are checked when the loader is made."""

import numpy as np
import pytest
from support.samples import Numbered

from imagearchive.errors import (
    OptionError,
    OptionTypeError,
)
from imagearchive.loader.data_loader import DataLoader
from imagearchive.transforms import (
    ToTensor,
)
from imagearchive.transforms.fields import Image as ImageField


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, OptionError),
        ({"batch_size": "8"}, OptionTypeError),
        ({"num_workers": -1}, OptionError),
        ({"num_workers": 1.5}, OptionTypeError),
        ({"prefetch_batches": 0}, OptionError),
        ({"output": "jax"}, OptionError),
        ({"dtype": "int8"}, OptionError),
        ({"on_error": "ignore"}, OptionError),
        ({"image_size": 8, "transform": ToTensor()}, OptionError),
        ({"transform": 8}, OptionTypeError),
        ({"seed": None}, OptionTypeError),
        ({"batch_size": True}, OptionTypeError),
        ({"batch_size": 2.5}, OptionTypeError),
        ({"batch_size": 1 << 32}, OptionError),
        ({"num_workers": True}, OptionTypeError),
        ({"num_workers": 5000}, OptionError),
        ({"image_size": "8"}, OptionTypeError),
        ({"image_size": 8.5}, OptionTypeError),
        ({"image_size": (8, 8, 8)}, OptionTypeError),
        ({"image_size": (8, 0)}, OptionError),
        ({"transform": ToTensor}, OptionTypeError),
        ({"transform": [ToTensor()]}, OptionTypeError),
        ({"collate_fn": 3}, OptionTypeError),
        ({"dtype": np.int16}, OptionError),
        ({"dtype": np.dtype("float64")}, OptionError),
        ({"on_error": None}, OptionError),
        ({"rank": 1}, OptionError),
        ({"rank": 2, "world_size": 2}, OptionError),
        ({"persistent_workers": True}, TypeError),
        # Without a transform, there are no columns.
        ({"channels_last": True}, OptionError),
        ({"ragged": "pad"}, OptionError),
        ({"fields": {"x": ImageField()}}, OptionError),
    ],
)
def test_options_out_of_range_raise_at_once(options, error):
    name = next(iter(options))
    with pytest.raises(error, match=f"{name}|width|height"):
        DataLoader(Numbered(), **options)


def test_options_as_properties_are_read_only():
    loader = DataLoader(Numbered(4), 2, drop_last=True, num_workers=1)
    assert (loader.batch_size, loader.drop_last, loader.num_workers) == (2, True, 1)
    with pytest.raises(AttributeError):
        loader.batch_size = 3


def test_repr_contains_the_options():
    text = repr(DataLoader(Numbered(), 3, shuffle=True, seed=9, num_workers=1))
    assert "batch_size=3" in text
    assert "seed=9" in text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("worker_init_fn", "threads"),
        ("persistent_workers", "threads"),
        ("multiprocessing_context", "threads"),
        ("timeout", "thread"),
        ("sampler", "Subset"),
        ("batch_sampler", "batch_size="),
        ("pin_memory_device", "pin_memory=True"),
        ("prefetch_factor", "prefetch_batches="),
        ("generator", "seed="),
        ("in_order", "order of the epoch"),
    ],
)
def test_argument_of_torch_is_not_needed_and_says_why(name, reason):
    with pytest.raises(OptionTypeError, match=rf"^{name}= is not needed here, .*{reason}"):
        DataLoader(Numbered(3), **{name: None})


def test_unknown_argument_suggests_the_closest():
    with pytest.raises(TypeError, match=r"no argument sufle=; did you mean shuffle=\?"):
        DataLoader(Numbered(3), sufle=True)
    with pytest.raises(OptionTypeError, match=r"no argument qqqq=$"):
        DataLoader(Numbered(3), qqqq=True)


@pytest.mark.parametrize("name", ["table", "root", "class_to_idx", "members"])
def test_loader_argument_of_the_dataset_names_the_dataset(name, image_tar):
    with pytest.raises(TypeError, match=rf"DataLoader\(ImageArchive\(path, {name}=\.\.\.\)\)"):
        DataLoader(image_tar, **{name: "x"})
