"""``shuffle="blocks"``: the order of data, the same for all workers and ranks, resumable."""

import gzip
import io
import multiprocessing
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deflate import photo
from support.files import bytes_read
from support.samples import COUNT, FILES, TRAINING, Encoded, Numbered, labels_of, same_batches

from imagearchive import CombinedLazyDataset, DataLoader, ImageArchive, ShardedSampler
from imagearchive.errors import OptionError, StateMismatchError
from imagearchive.loader.locality import find_data_order
from imagearchive.loader.order import BlockShuffle, EpochOrder


def make(source, **options):
    options = {"block_size": 5, "blocks_per_window": 3, "seed": 2, "num_workers": 0, **options}
    return DataLoader(source, 4, shuffle="blocks", transform=TRAINING, **options)


def samples_of(loader):
    return [label for batch in labels_of(loader) for label in batch]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_block_shuffle_any_number_of_workers_gives_the_same_batches(num_workers, tar):
    with make(tar) as one, make(tar, num_workers=num_workers) as other:
        for _ in range(2):
            assert same_batches(list(one), list(other))


def test_block_shuffle_epochs_differ_and_hold_every_sample_once():
    loader = make(Encoded())
    first, second = samples_of(loader), samples_of(loader)
    assert first != second
    assert sorted(first) == sorted(second) == [3 * i for i in range(COUNT)]
    # 15 samples of three blocks of neighbors.
    places = np.sort(np.array(first[:15]) // 3)
    assert np.count_nonzero(np.diff(places) > 1) <= 3


def test_block_shuffle_state_resumes_on_other_ranks():
    loader = make(Encoded())
    whole = samples_of(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    seen = [label for _ in range(3) for label in next(iterator)[1].tolist()]
    state = loader.state_dict()
    iterator.close()
    assert seen == whole[:12]
    rest = []
    for rank in range(3):
        part = make(Encoded(), rank=rank, world_size=3)
        part.load_state_dict(state)
        rest += samples_of(part)
    assert sorted(rest) == sorted(whole[12:])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"block_size": 6}, "block_size was 5 .* pass the same block_size"),
        ({"blocks_per_window": 6}, "blocks_per_window was 3"),
    ],
)
def test_block_shuffle_state_of_other_blocks_raises(options, name):
    with pytest.raises(StateMismatchError, match=name):
        make(Encoded(), **options).load_state_dict(make(Encoded()).state_dict())
    with pytest.raises(StateMismatchError, match="shuffle was 'blocks'"):
        DataLoader(Encoded(), shuffle=True, seed=2).load_state_dict(make(Encoded()).state_dict())


def test_block_shuffle_options_without_it_raise():
    with pytest.raises(OptionError, match="block_size= is for shuffle='blocks'"):
        DataLoader(Encoded(), shuffle=True, block_size=5)
    with pytest.raises(OptionError, match="shuffle must be True, False, or 'blocks'"):
        DataLoader(Encoded(), shuffle="block")


@pytest.fixture
def listed(tmp_path):
    """A dataset whose samples are in another order than their data."""
    path = tmp_path / "listed.tar"
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(FILES):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    order = np.random.default_rng(1).permutation(COUNT)
    lines = (f"{number} {place}.jpg" for number, place in enumerate(order.tolist()))
    (tmp_path / "list.txt").write_text("\n".join(lines))
    with ImageArchive(path, index_file=tmp_path / "list.txt") as dataset:
        yield dataset, order


def test_block_shuffle_of_listed_members_follows_their_data(listed):
    dataset, order = listed
    assert np.array_equal(order[find_data_order(dataset)], np.arange(COUNT))
    loader = DataLoader(dataset, 15, shuffle="blocks", block_size=5, blocks_per_window=3)
    for batch in list(loader)[:3]:
        places = np.sort([int(sample["filename"].removesuffix(".jpg")) for sample in batch])
        assert np.count_nonzero(np.diff(places) > 5) <= 6
    state = loader.state_dict()
    with pytest.raises(StateMismatchError, match="stored in another order"):
        loader.load_state_dict({**state, "data_order": "ascending"})


def test_find_data_order_of_combined_datasets_keeps_the_parts_apart(listed):
    dataset, order = listed
    combined = CombinedLazyDataset([Numbered(7), dataset])
    found = find_data_order(combined)
    assert found[:7].tolist() == list(range(7))
    assert np.array_equal(order[found[7:] - 7], np.arange(COUNT))
    assert find_data_order(CombinedLazyDataset([Numbered(7), Numbered(3)])) is None


@pytest.mark.needs_torch
def test_find_data_order_of_a_subset_follows_the_whole(listed):
    from torch.utils.data import Subset

    dataset, order = listed
    chosen = [3, 50, 7, -1, 20]
    found = find_data_order(Subset(dataset, chosen))
    places = order[np.array(chosen)[found]]
    assert np.array_equal(places, np.sort(places))
    assert find_data_order(Subset(Numbered(9), [1, 5, 7])) is None
    assert find_data_order(Subset(Numbered(9), [5, 1, 7])).tolist() == [1, 0, 2]


def test_find_data_order_of_another_length_is_ignored(listed):
    class Fewer(ImageArchive):
        def __len__(self):
            return 3

    dataset, _ = listed
    path, index_file = dataset.archive.path, dataset.archive.path.replace("listed.tar", "list.txt")
    with Fewer(path, index_file=index_file) as fewer:
        assert find_data_order(fewer) is None


def test_sharded_sampler_of_blocks_has_the_order_of_the_loader():
    options = {"shuffle": "blocks", "block_size": 5, "blocks_per_window": 3, "seed": 2}
    samplers = [ShardedSampler(COUNT, rank=rank, world_size=2, **options) for rank in range(2)]
    parts = [list(sampler) for sampler in samplers]
    whole = samples_of(make(Encoded()))
    assert [3 * i for i in parts[0]] == whole[::2]
    assert [3 * i for i in parts[1]] == whole[1::2]
    assert samplers[0].state_dict()["block_size"] == 5


@settings(max_examples=80)
@given(
    n=st.integers(1, 300),
    blocks=st.builds(BlockShuffle, st.integers(1, 40), st.integers(1, 9)),
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 20),
    start=st.integers(0, 100),
)
def test_epoch_order_windows_are_begun_before_their_samples(
    n, blocks, world_size, batch_size, start
):
    for rank in range(world_size):
        order = EpochOrder(
            n, shuffle=blocks, rank=rank, world_size=world_size, batch_size=batch_size,
            start=min(start, n),
        )  # fmt: skip
        begun, ahead, seen = set(), [], []
        for batch in range(len(order)):
            for indices in order.begin_windows(order.positions(batch), begun):
                ahead += indices.tolist()
            seen += order[batch].tolist()
            assert set(seen) <= set(ahead)
        assert sorted(ahead) == sorted(seen)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A compressed archive of 16 spans or more."""
    path = tmp_path_factory.mktemp("compressed") / "x.tar.gz"
    noise = [photo(100_000, number) for number in range(3)]
    with gzip.open(path, "wb", 1) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(160):
            # What follows the end of an image is not decoded.
            data = FILES[number % COUNT] + noise[number % 3]
            info = tarfile.TarInfo(f"class/{number:03}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    ImageArchive(path).close()
    return path


def bytes_of_an_epoch(path, **options):
    # Reads of a mapped file are not counted.
    with (
        ImageArchive(path, storage="pread") as dataset,
        DataLoader(dataset, 8, image_size=8, return_indices=True, **options) as loader,
    ):
        before = bytes_read()
        indices = [index for *_, found in loader for index in found.tolist()]
        assert sorted(indices) == list(range(160))
        return bytes_read() - before


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_block_shuffle_decompresses_each_block_once(num_workers, compressed):
    size = compressed.stat().st_size
    options = {"num_workers": num_workers}
    blocks = bytes_of_an_epoch(
        compressed, shuffle="blocks", block_size=20, blocks_per_window=2, **options
    )
    in_order = bytes_of_an_epoch(compressed, **options)
    everywhere = bytes_of_an_epoch(compressed, shuffle=True, **options)
    # A block begins inside a span, and its last part is in another.
    assert blocks < 2 * size + (1 << 19)
    assert in_order < 1.3 * size + (1 << 19)
    assert everywhere > 3 * size


def test_block_shuffle_keeps_no_more_than_its_windows(compressed):
    with DataLoader(compressed, 8, shuffle="blocks", block_size=4, blocks_per_window=2) as loader:
        tracemalloc.start()
        for _ in loader:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 10 samples of 0.1 MB, one span of 1 MiB for each of the blocks, and what threads work with.
    assert peak < 8 << 20


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_block_shuffle_in_a_child_gives_the_same_batches(method, compressed):
    loader = DataLoader(compressed, 8, shuffle="blocks", block_size=20, image_size=8, num_workers=2)
    expected = labels_and_images(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    next(iterator)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(labels_and_images, (loader, 0)) == expected
    loader.close()


def labels_and_images(loader, epoch=None):
    if epoch is not None:
        loader.set_epoch(epoch)
    return [(np.asarray(images).tobytes(), labels.tolist()) for images, labels in loader]
