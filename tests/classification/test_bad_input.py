"""A loss that is no number and images that cannot be read: named, counted, stopped before they do harm."""

from __future__ import annotations

import errno
import logging
import os

import numpy as np
import paddle
import pytest

from classification.bad_input import BadImages, stop_at_bad_loss
from classification.data.datasets import ImageDataset
from classification.progress import RunProgress
from ppcls_ext.utils.errors import UserError


class Named(ImageDataset):
    """Images of which only the names matter."""

    def __init__(self, length: int) -> None:
        self.labels = np.zeros(length, dtype=np.int64)

    def load(self, index: int) -> tuple[np.ndarray, int]:
        """Returns a black pixel and its label."""
        return np.zeros((1, 1, 3), np.uint8), 0

    def name_of(self, index: int) -> str:
        """Returns the name of the image."""
        return f"photos/{index}.jpg"


def batch() -> dict[str, paddle.Tensor]:
    generator = np.random.default_rng(0)
    return {
        "image": paddle.to_tensor(generator.normal(size=(2, 3, 4, 4)).astype("float32")),
        "label": paddle.to_tensor([3, 1]),
        "label_mixed": paddle.to_tensor([1, 3]),
        "lam": paddle.to_tensor(0.25),
        "index": paddle.to_tensor([7, 2]),
        "bad": paddle.to_tensor([-1, -1]),
    }


PROGRESS = RunProgress(epoch=2, step=14, updates=99)


@pytest.mark.parametrize(("loss", "shown"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_a_bad_loss_names_the_step_and_saves_the_batch(tmp_path, loss, shown):
    given = batch()
    with pytest.raises(UserError) as error:
        stop_at_bad_loss(loss, given, Named(10), PROGRESS, tmp_path / "run", rank=1)
    file = tmp_path / "run" / "bad_batch_epoch_0003_step_000015_rank_1.npz"
    message = str(error.value)
    assert message.startswith(f"the loss became {shown} at epoch 3, batch 15 (optimizer step 100); ")
    assert f"the batch is saved in {file}; try a lower Optimizer.lr.learning_rate" in message
    assert "\n" not in message
    assert os.listdir(file.parent) == [file.name]
    with np.load(file, allow_pickle=False) as saved:
        assert saved["names"].tolist() == ["photos/7.jpg", "photos/2.jpg"]
        assert set(saved.files) == {"names", "image", "label", "label_mixed", "lam", "index"}
        for name in ("image", "label", "label_mixed", "lam", "index"):
            assert np.array_equal(saved[name], given[name].numpy()), name


@pytest.mark.parametrize("loss", [0.0, -1.0, 1e30])
def test_a_finite_loss_goes_on(tmp_path, loss):
    stop_at_bad_loss(loss, batch(), Named(10), PROGRESS, tmp_path / "run", rank=0)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_does_not_hide_that_the_loss_is_bad(tmp_path, monkeypatch):
    def fail(*_arguments, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"the loss became nan at epoch 3, batch 15 .* could not be saved .*No space"):
        stop_at_bad_loss(float("nan"), batch(), Named(10), PROGRESS, tmp_path, rank=0)
    assert os.listdir(tmp_path) == []


def note(bad: BadImages, *indices: int) -> None:
    bad.note(np.array(indices, dtype=np.int64))


def test_each_bad_image_is_named_once(caplog):
    names: list[str] = []
    bad = BadImages(names, Named(1000), limit=0.01)
    with caplog.at_level(logging.WARNING):
        note(bad, -1, 5, -1)
        note(bad, -1, -1)
        note(bad, 5, 8)
    assert names == ["photos/5.jpg", "photos/8.jpg"], "the run's own list is filled"
    assert [record.getMessage() for record in caplog.records] == [
        "skipped photos/5.jpg: it cannot be read (1 so far)",
        "skipped photos/8.jpg: it cannot be read (2 so far)",
    ]


def test_exactly_the_permitted_share_goes_on_and_one_more_stops():
    bad = BadImages([], Named(1000), limit=0.01)
    note(bad, *range(10))
    with pytest.raises(UserError) as error:
        note(bad, 10)
    assert str(error.value) == (
        "11 of 1000 images cannot be read, more than Global.max_bad_images permits: "
        "photos/0.jpg, photos/1.jpg, photos/2.jpg ...; mend or remove them, or go on without them by "
        "-o Global.max_bad_images=0.02"
    )


def test_in_a_small_data_set_one_bad_image_is_too_many():
    with pytest.raises(
        UserError, match=r"^1 of 50 images .* permits: photos/3\.jpg; .* -o Global.max_bad_images=0.04$"
    ):
        note(BadImages([], Named(50), limit=0.01), 3)


def test_nothing_is_permitted_where_the_limit_is_zero_and_all_where_it_is_one():
    strict = BadImages([], Named(1000), limit=0.0)
    note(strict, -1, -1)
    with pytest.raises(UserError, match="^1 of 1000 images"):
        note(strict, 0)
    note(BadImages([], Named(5), limit=1.0), 0, 1, 2, 3, 4)


def test_a_resumed_run_remembers_and_does_not_count_twice(caplog):
    names = [f"photos/{index}.jpg" for index in range(10)]
    bad = BadImages(names, Named(1000), limit=0.01)
    note(bad, *range(10))
    assert caplog.records == []
    with pytest.raises(UserError, match="^11 of 1000"):
        note(bad, 10)


def test_processes_add_up_what_they_met(monkeypatch):
    """The other process met images 4 and 7; images that both met count once."""

    def sum_over_ranks(values, world_size):
        other = np.zeros_like(values)
        other[[4, 7]] = 1
        return values + other

    monkeypatch.setattr("classification.bad_input.sum_over_ranks", sum_over_ranks)
    bad = BadImages([], Named(1000), limit=0.003)
    note(bad, 2, 7)
    bad.share(world_size=2)
    assert bad.names == ["photos/2.jpg", "photos/7.jpg", "photos/4.jpg"]
    note(bad, 4)
    with pytest.raises(UserError, match="^4 of 1000"):
        note(bad, 9)


def test_each_process_has_the_limit_of_the_whole_set():
    """Over the epochs every process meets every image: with a share of the limit, few bad images stopped a run."""
    bad = BadImages([], Named(1000), limit=0.01)
    note(bad, *range(10))
