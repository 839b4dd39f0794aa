"""The names and arguments of TurboLoader 2.39, as its documentation describes them."""

import pickle

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.files import make_tar
from support.images import encode, noise, photo

import imagearchive
from imagearchive.compat import turboloader as tl
from imagearchive.errors import ImageArchiveError, OptionError, OptionTypeError


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
    ((images, meta),) = list(loader)
    assert images.shape == shape
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert meta["indices"] == [0, 1, 2, 3, 4, 5]
    assert meta["batch_size"] == 6
    assert meta["labels"].tolist() == [0, 1, 0, 1, 0, 1]


def test_data_loader_output_format_pytorch_with_pin_memory_gives_tensors(tar):
    torch = pytest.importorskip("torch")
    transform = tl.Resize(10, 8) | tl.ImageNetNormalize()
    plain = tl.DataLoader(tar, 6, 0, False, transform, None, "pytorch")
    ((arrays, _),) = list(plain)
    assert isinstance(arrays, np.ndarray)
    pinned = tl.DataLoader(tar, 6, 0, False, transform, None, "pytorch", pin_memory=True)
    ((images, meta),) = list(pinned)
    np.testing.assert_array_equal(images.numpy(), arrays)
    assert images.shape == (6, 3, 8, 10)
    assert images.min() < 0
    assert meta["labels"].dtype == torch.int64


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


def array_loader(tar, **options):
    options = {"image_size": (8, 10), "shuffle": True, "seed": 3, **options}
    return tl.DataLoader(tar, 2, 2, output_format="numpy_chw", **options)


def test_indices_say_which_samples_are_in_the_batch(tar):
    in_order = np.concatenate([images for images, _ in array_loader(tar, shuffle=False)])
    seen = []
    for images, meta in array_loader(tar):
        np.testing.assert_array_equal(images, in_order[meta["indices"]])
        seen += meta["indices"]
    assert seen != sorted(seen) == list(range(6))


def test_collate_fn_result_is_the_batch(tar):
    assert list(array_loader(tar, collate_fn=len)) == [2, 2, 2]


@pytest.mark.parametrize("options", [{}, {"prefetch_batches": 0}, {"train_aug": True}])
def test_state_dict_resumes_within_an_epoch(tar, options):
    whole = array_loader(tar, **options)
    whole.set_epoch(2)
    expected = list(whole)
    started = array_loader(tar, **options)
    started.set_epoch(2)
    started.next_batch()
    resumed = array_loader(tar, **options)
    resumed.load_state_dict(started.state_dict())
    rest = list(resumed)
    assert [meta["indices"] for _, meta in rest] == [meta["indices"] for _, meta in expected[1:]]
    for (images, _), (others, _) in zip(rest, expected[1:], strict=True):
        np.testing.assert_array_equal(images, others)


def test_train_aug_crops_and_flips_with_the_seed_of_the_loader(tar):
    ours = tl.Compose([tl.RandomResizedCrop((10, 8)), tl.RandomHorizontalFlip(1.0)])
    expected = list(array_loader(tar, transform=ours, image_size=None))
    for size in ({}, {"image_size": None, "transform": tl.Resize(10, 8)}):
        batches = list(array_loader(tar, train_aug=True, hflip_prob=1.0, **size))
        for (images, _), (others, _) in zip(batches, expected, strict=True):
            assert images.shape == (2, 3, 8, 10)
            np.testing.assert_array_equal(images, others)


def test_image_size_that_conflicts_with_resize_is_refused(tar):
    with pytest.raises(OptionError, match="conflicts with Resize"):
        array_loader(tar, transform=tl.Resize(9, 9))
    assert next(iter(array_loader(tar, transform=tl.Resize(10, 8))))[0].shape == (2, 3, 8, 10)
    with pytest.raises(OptionError, match="train_aug=True needs image_size"):
        array_loader(tar, image_size=None, train_aug=True)
    with pytest.raises(OptionError, match="train_aug= needs"):
        tl.DataLoader(tar, train_aug=True)


@pytest.mark.parametrize("output_format", ["dict", "numpy"])
def test_closed_loader_opens_again_at_its_next_epoch(tar, output_format):
    options = {} if output_format == "dict" else {"image_size": 8}
    with tl.DataLoader(tar, 2, 2, output_format=output_format, **options) as loader:
        loader.next_batch()
    loader.close()
    assert loader.closed
    assert loader.epoch == 1
    assert len(list(loader)) == 3
    loader.close()
    loader.next_batch()
    assert not loader.closed
    assert loader.epoch == 3
    loader.close()


def test_pickled_loader_yields_the_same_batches(tar):
    loader = array_loader(tar)
    copy = pickle.loads(pickle.dumps(loader))
    assert [m["indices"] for _, m in copy] == [m["indices"] for _, m in loader]


@pytest.mark.parametrize("batch_size", [4, 6])
def test_is_finished_after_the_last_batch(tar, batch_size):
    loader = tl.DataLoader(tar, batch_size, 2)
    assert not loader.is_finished()
    sizes = []
    while not loader.is_finished():
        sizes.append(len(loader.next_batch()))
    assert sum(sizes) == 6
    for _ in loader:
        pass
    assert loader.is_finished()


def test_broken_image_is_replaced_on_request(tmp_path):
    files = {f"{k}.png": encode(photo(24, 18, k), "PNG") for k in range(5)}
    make_tar(tmp_path / "data.tar", {**files, "5.png": b"not an image"})
    options = {"output_format": "numpy", "image_size": 8}
    with pytest.raises(ImageArchiveError, match=r"5\.png"):
        list(tl.DataLoader(tmp_path / "data.tar", 6, 0, **options))
    loader = tl.DataLoader(tmp_path / "data.tar", 6, 0, on_error="replace", **options)
    assert [len(images) for images, _ in loader] == [6]
    assert [bad.member for bad in loader.errors] == ["5.png"]


def test_version_and_features_are_ours():
    assert tl.version() == tl.__version__ == tl.features()["version"] == imagearchive.__version__
    assert tl.features()["tar_support"] is True
    assert isinstance(tl.Resize(4, 4) | tl.ToTensor(), tl.ComposedTransforms)


def test_tensor_format_none_keeps_the_layout():
    image = noise(9, 8)
    np.testing.assert_array_equal(tl.ToTensor(tl.TensorFormat.NONE)(image), image)


def test_unused_arguments_are_accepted_when_off(tar):
    off = {"modality": "image", "cache_decoded": False, "enable_cache": False, "antialias": True}
    assert len(list(tl.DataLoader(tar, 6, 0, **off))) == 1


@pytest.mark.parametrize(
    ("option", "our_way"),
    [
        ({"cache_decoded": True}, "NpzWriter"),
        ({"modality": "tokens"}, "dataset as data_path="),
        ({"dataset": [1]}, "as data_path="),
        ({"enable_smart_batching": True}, "image_size="),
    ],
)
def test_unused_arguments_name_our_way(tar, option, our_way):
    with pytest.raises(OptionTypeError, match=rf"{next(iter(option))}=: .*{our_way}"):
        tl.DataLoader(tar, **option)


def test_what_is_not_offered_names_our_way():
    for name in (
        "FastDataLoader",
        "TblReaderV2",
        "MixUp",
        "RandomAffine",
        "PyTorchCompatibleLoader",
        "CudaImageLoader",
        "cuda_device_name",
        "decode_jpeg_region",
        "normalize_u8_batch",
        "enable_logging",
    ):
        message = rf"turboloader\.{name} is not offered: (use|mix|pass)"
        with pytest.raises(AttributeError, match=message):
            getattr(tl, name)
        with pytest.raises(ImportError, match=message):
            exec(f"from imagearchive.compat.turboloader import {name}")
    assert not hasattr(tl, "MixUp")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tl.nothing
    with pytest.raises(OptionTypeError, match="no argument enable_cache="):
        tl.DataLoader("data.tar", enable_cache=True)
    with pytest.raises(OptionTypeError, match="pass the dataset as data_path="):
        tl.DataLoader(dataset=[1])
    with pytest.raises(OptionTypeError, match="needs data_path="):
        tl.DataLoader()
    with pytest.raises(OptionError, match="output_format"):
        tl.DataLoader("data.tar", output_format="jax")
