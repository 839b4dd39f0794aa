"""Torch tensors in, torch tensors out."""

import numpy as np
import pytest
from support.images import encode, noise, photo
from support.transform_cases import ANY_IMAGE, COMPOSED, TRANSFORMS, name_of, run

from imagearchive import transforms as T
from imagearchive.errors import OptionError, OptionTypeError
from imagearchive.transforms import Compose, Key, compile_pipeline

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("transform", [*TRANSFORMS, COMPOSED], ids=name_of)
def test_tensor_gives_the_same_pixels_as_an_array(transform):
    image, key = photo(60, 50), Key(7, 1, 2)
    tensor = transform(torch.from_numpy(image.transpose(2, 0, 1).copy()), key)
    assert isinstance(tensor, torch.Tensor)
    expected = transform(image, key)
    last = transform.transforms[-1] if isinstance(transform, Compose) else transform
    if not isinstance(last, T.ToTensor):
        expected = expected.transpose(2, 0, 1)
    np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3), (5, 5, 0), (5,), (2, 3, 5, 6), ()])
@pytest.mark.parametrize("transform", ANY_IMAGE, ids=name_of)
def test_tensor_that_is_not_an_image_is_refused(transform, shape):
    with pytest.raises(OptionError):
        run(transform, torch.zeros(shape), Key(1))


def test_to_tensor_result_becomes_a_tensor():
    result = T.ToTensor()(noise(33, 21))
    assert torch.from_numpy(result).float().div(255.0).max() <= 1


def test_to_dtype_refuses_dtypes_of_torch():
    with pytest.raises(OptionTypeError):
        T.ToDtype(torch.float32)


def test_pipeline_of_a_function_that_returns_a_tensor():
    pipeline = compile_pipeline(lambda image: torch.from_numpy(image.copy()))
    assert pipeline.render(encode(photo(30, 20))).shape == (20, 30, 3)


def test_tensor_is_channels_first():
    array = noise(8, 6)
    tensor = torch.from_numpy(array.transpose(2, 0, 1))
    result = T.Resize(4, 3)(tensor)
    np.testing.assert_array_equal(result.numpy().transpose(1, 2, 0), T.Resize(4, 3)(array))
    # A shape that would fit both ways.
    both = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
    flipped = T.RandomHorizontalFlip(1.0)(both)
    np.testing.assert_array_equal(flipped.numpy(), both.numpy()[:, :, ::-1])
    # Two axes are one channel.
    gray = T.Resize(4, 3)(torch.zeros(6, 8, dtype=torch.uint8))
    assert gray.shape == (1, 3, 4)
    with pytest.raises(OptionError, match=r"permute\(2, 0, 1\)"):
        T.Resize(4, 3)(torch.zeros(50, 60, 3))
    layouts = Compose([T.ToTensor(T.TensorFormat.TENSORFLOW_HWC), T.Normalize(0.5, 0.5)])
    assert layouts(tensor).shape == (6, 8, 3)


def test_tensor_dtypes_and_strides():
    for tensor in (
        torch.rand(3, 6, 8, requires_grad=True),
        torch.rand(3, 6, 8, dtype=torch.float64),
        torch.rand(8, 6, 3).permute(2, 1, 0),
        torch.rand(3, 6, 8).to(torch.float16),
    ):
        result = T.Resize(4, 3)(tensor)
        assert result.shape == (3, 3, 4)
        assert result.dtype == torch.float32
        assert not result.requires_grad
    for dtype in (torch.bfloat16, torch.int64, torch.bool):
        with pytest.raises(OptionTypeError, match="uint8 or float32"):
            T.Resize(4, 3)(torch.zeros(3, 6, 8).to(dtype))
