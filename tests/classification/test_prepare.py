"""Data sets out of data sets: a smaller CIFAR-100, and the choice of samples."""

from __future__ import annotations

import numpy as np
import pytest

from classification.data.datasets import Cifar100
from classification.prepare import choose_evenly, write_subset
from ppcls_ext.utils.errors import UserError
from tests.support.cifar import cifar_archive


def test_every_second_class_is_kept_with_new_labels(tmp_path):
    source = cifar_archive(tmp_path / "all.tar.gz", images=32)
    output = tmp_path / "some" / "half.tar.gz"
    assert write_subset(str(source), 2, output) == ["apple", "cloud"]
    for mode in ("train", "test"):
        whole, part = Cifar100(str(source), mode), Cifar100(str(output), mode)
        assert part.class_names == ["apple", "cloud"]
        wanted = np.isin(whole.labels, [0, 2])
        assert np.array_equal(part.images, whole.images[wanted])
        assert np.array_equal(part.labels, whole.labels[wanted] // 2)


@pytest.mark.parametrize(
    ("every", "name", "message"),
    [
        (4, "part.tar.gz", r"--every must be from 1 to 3"),
        (2, "part.zip", r"part.zip: must end with .tar.gz"),
        (2, "all.tar.gz", r"is read by this command"),
        (5, "part.tar.gz", r"none.tar.gz"),
    ],
)
def test_mistakes_are_told_and_leave_no_file(tmp_path, every, name, message):
    source = cifar_archive(tmp_path / "all.tar.gz", images=8)
    before = source.read_bytes()
    with pytest.raises(UserError, match=message):
        write_subset(str(source if every < 5 else tmp_path / "none.tar.gz"), every, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["all.tar.gz"] and source.read_bytes() == before


def test_choice_takes_one_of_each_class_in_turn():
    labels = np.array([0] * 50 + [1] * 5 + [2])
    chosen = choose_evenly(labels, 7, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 0, 0, 1, 1, 1, 2]
    assert len(set(chosen.tolist())) == 7
    np.testing.assert_array_equal(chosen, choose_evenly(labels, 7, seed=0))
    assert len(choose_evenly(labels, 100, seed=0)) == 56
