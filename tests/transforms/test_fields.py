"""The kinds of fields: arguments, equality, pickling, and the samples that carry them."""

import copy
import pickle

import pytest

from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms.compound_fields import Coco, Npz
from imagearchive.transforms.fields import (
    Array,
    Boxes,
    Bytes,
    Field,
    Image,
    Json,
    Keypoints,
    Label,
    Mask,
    Sample,
    Text,
)

KINDS = (Field, Image, Mask, Boxes, Keypoints, Text, Json, Array, Npz, Bytes, Label)
EXAMPLES = [
    Mask("masks.zip", "gt/{key}_labelIds.png"),
    Boxes("{key}.txt", format="cxcywh", relative=True, labels="classes"),
    Keypoints("{key}.npy", flip_pairs=[(1, 2), (3, 4)], visibility=True),
    Npz("{key}.npz", kinds={"image": Image(), "boxes": Boxes(format="xywh")}),
    Label("{key}.txt", ragged=True),
    Field(["a.tar", "b.tar"], "{key}.jp2", decoder=len),
    Coco("annotations.json", masks=True, flip_pairs=[(1, 2)]),
]


@pytest.mark.parametrize("kind", KINDS)
def test_field_of_each_kind_keeps_its_source(kind):
    field = kind("other.tar", "images/{key}.x")
    assert (field.archive, field.pattern) == ("other.tar", "images/{key}.x")
    assert kind("{key}.x").archive is None


@pytest.mark.parametrize("field", EXAMPLES, ids=repr)
def test_field_repr_pickle_and_copy_are_equal_to_it(field):
    names = {kind.__name__: kind for kind in (*KINDS, Coco)}
    assert eval(repr(field).replace("<built-in function len>", "len"), names) == field
    again = pickle.loads(pickle.dumps(field))
    assert again == field
    assert hash(again) == hash(field)
    assert copy.copy(field) == field
    assert all(field != other for other in EXAMPLES if other is not field)


def test_field_subclass_repr_shows_its_name():
    class Caption(Text):
        pass

    assert repr(Caption("{key}.txt")) == "Caption('{key}.txt')"


def test_field_cannot_be_changed():
    field = Boxes("{key}.npy")
    with pytest.raises(AttributeError, match="make another"):
        field.format = "xywh"
    with pytest.raises(AttributeError, match="make another"):
        del field.format


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image("a", "b", "c"), "got 3 arguments"),
        (lambda: Image(3), "must be a str"),
        (lambda: Bytes("{key}", decoder=3), "decoder"),
        (lambda: Boxes("{key}", format="yxyx"), "format"),
        (lambda: Boxes("{key}", relative="no"), "relative"),
        (lambda: Keypoints("{key}", flip_pairs=[(1, 2), (2, 3)]), "at most once"),
        (lambda: Keypoints("{key}", flip_pairs=[1]), "list of pairs"),
        (lambda: Keypoints("{key}", flip_pairs=[(1, 2, 3)]), "list of pairs"),
        (lambda: Npz("{key}.npz", kinds={"boxes": "xyxy"}), "kinds must map"),
    ],
)
def test_field_wrong_argument_raises_option_error(make, message):
    with pytest.raises((OptionError, OptionTypeError), match=message):
        make()


def test_sample_is_a_dict_that_keeps_its_fields():
    sample = Sample({"__key__": "a", "boxes": 1}, {"boxes": Boxes()})
    for again in (sample.copy(), copy.copy(sample), pickle.loads(pickle.dumps(sample))):
        assert isinstance(again, Sample)
        assert again == {"__key__": "a", "boxes": 1}
        assert again.fields == {"boxes": Boxes()}
        assert again is not sample
    with pytest.raises(TypeError):
        sample.fields["image"] = Image()
