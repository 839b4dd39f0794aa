"""The names and arguments of TurboLoader 2.39, as its documentation describes them."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.files import make_tar
from support.images import encode, noise, photo

from imagearchive.compat import turboloader as tl
from imagearchive.errors import OptionError, OptionTypeError


@pytest.fixture
def tar(tmp_path):
    images = {f"{k % 2}/{k}.png": encode(photo(24, 18, k), "PNG") for k in range(6)}
    make_tar(tmp_path / "data.tar", images)
    return str(tmp_path / "data.tar")


def test_data_loader_takes_positional_arguments(tar):
    loader = tl.DataLoader(tar, 4, 2, True)
    assert (loader.batch_size, loader.num_workers) == (4, 2)
    batches = list(tl.DataLoader(data_path=tar, batch_size=4, num_workers=0))
    assert [len(batch) for batch in batches] == [4, 2]
    assert batches[0][0]["image"].shape == (18, 24, 3)


@pytest.mark.parametrize(
    ("output_format", "shape"),
    [("numpy", (6, 8, 10, 3)), ("numpy_chw", (6, 3, 8, 10)), ("tensorflow", (6, 8, 10, 3))],
)
def test_data_loader_output_format_decides_the_layout(tar, output_format, shape):
    loader = tl.DataLoader(tar, 6, 0, output_format=output_format, image_size=(8, 10))
    ((images, labels),) = list(loader)
    assert images.shape == shape
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_data_loader_output_format_pytorch_gives_tensors(tar):
    torch = pytest.importorskip("torch")
    transform = tl.Resize(10, 8) | tl.ImageNetNormalize()
    ((images, labels),) = list(tl.DataLoader(tar, 6, 0, False, transform, None, "pytorch"))
    assert images.shape == (6, 3, 8, 10)
    assert images.min() < 0
    assert labels.dtype == torch.int64


def test_data_loader_transforms_the_images_of_dicts(tar):
    loader = tl.DataLoader(tar, 6, 0, transform=tl.Resize(10, 8) | tl.ToTensor(normalize=True))
    (batch,) = list(loader)
    assert {sample["image"].shape for sample in batch} == {(3, 8, 10)}
    assert [sample["label"] for sample in batch] == [0, 1, 0, 1, 0, 1]


def test_data_loader_ranks_share_an_epoch(tar):
    names = [
        sample["filename"]
        for rank in range(2)
        for batch in tl.DataLoader(
            tar, 2, 0, enable_distributed=True, world_rank=rank, world_size=2
        )
        for sample in batch
    ]
    assert len(set(names)) == 6


def test_next_batch_counts_through_epochs(tar):
    with tl.DataLoader(tar, 4, 0) as loader:
        for _ in range(2):
            assert [len(loader.next_batch()) for _ in range(2)] == [4, 2]
            with pytest.raises(StopIteration):
                loader.next_batch()
        loader.stop()


def test_pipe_composes_transforms():
    image = noise(30, 20)
    pipeline = tl.Resize(12, 10) | tl.RandomHorizontalFlip(1.0) | tl.ToTensor()
    expected = tl.Compose([tl.Resize(12, 10), tl.RandomHorizontalFlip(1.0), tl.ToTensor()])
    assert len(pipeline) == 3
    np.testing.assert_array_equal(pipeline.apply(image), expected.apply(image))


def test_to_tensor_divides_on_request_only():
    image = noise(9, 8)
    assert tl.ToTensor(tl.TensorFormat.PYTORCH_CHW)(image).dtype == np.uint8
    scaled = tl.ToTensor(format=tl.TensorFormat.TENSORFLOW_HWC, normalize=True)(image)
    np.testing.assert_allclose(scaled, image / 255, atol=1e-7)


def test_modes_are_names_of_our_own():
    image = noise(9, 8)
    for mode, ours in (("EDGE", "edge"), ("REFLECT", "reflect")):
        padded = tl.Pad(2, getattr(tl.PaddingMode, mode))(image)
        np.testing.assert_array_equal(padded, np.pad(image, ((2, 2), (2, 2), (0, 0)), ours))
    assert (tl.Pad(2, tl.PaddingMode.CONSTANT, 9)(image)[0] == 9).all()
    for mode in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
        method = getattr(tl.InterpolationMode, mode)
        assert tl.Resize(5, 4, method)(image).shape == (4, 5, 3)
    assert tl.RandomCrop(8, 8, 2, tl.PaddingMode.CONSTANT, 7)(image).shape == (8, 8, 3)
    with pytest.raises(OptionError, match="put Pad"):
        tl.RandomCrop(8, 8, 2, tl.PaddingMode.EDGE)


def test_gaussian_blur_has_a_fixed_sigma():
    image = photo(40, 30)
    blur = tl.GaussianBlur(5)
    assert blur.sigma == pytest.approx(1.1)
    np.testing.assert_array_equal(blur(image), blur(image))
    smooth = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.1)))
    assert abs(blur(image)[5:-5, 5:-5].astype(int) - smooth[5:-5, 5:-5]).mean() < 2


def test_what_is_not_offered_names_our_way():
    for name in ("FastDataLoader", "TblReaderV2", "MixUp", "RandomAffine"):
        with pytest.raises(AttributeError, match=rf"turboloader\.{name} is not offered: .*use|mix"):
            getattr(tl, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tl.nothing
    with pytest.raises(OptionTypeError, match="no argument enable_cache="):
        tl.DataLoader("data.tar", enable_cache=True)
    with pytest.raises(OptionError, match="output_format"):
        tl.DataLoader("data.tar", output_format="jax")
