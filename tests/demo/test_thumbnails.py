"""Thumbnails of the samples and of what is no image."""

import sys

import pytest
from PIL import Image

from queuecast.demo import samples
from queuecast.demo.thumbnails import shrink


def quiet(current, total, note):
    pass


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(400, 200), (100, 300), (20, 20)]):
        Image.new("RGBA", size, (200, 30, 30, 128)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_each_image_fits_the_size_asked_for(pictures, tmp_path):
    made = list(shrink(pictures, tmp_path / "thumbs" / "task", 50, quiet))
    assert [(thumb.name, thumb.width, thumb.height) for thumb in made] == [
        ("0.png", 400, 200),
        ("1.png", 100, 300),
        ("2.png", 20, 20),
    ]
    sizes = []
    for thumb in made:
        with Image.open(tmp_path / thumb.file) as image:
            sizes.append(image.size)
    assert sizes == [(50, 25), (17, 50), (20, 20)]


def test_a_broken_image_does_not_end_the_others(pictures, tmp_path):
    (pictures / "1.png").write_bytes(b"\x89PNG broken")
    made = list(shrink(pictures, tmp_path / "thumbs" / "task", 50, quiet))
    assert [bool(thumb.error) for thumb in made] == [False, True, False]
    assert made[1].file == ""


def test_one_image_may_be_named(pictures, tmp_path):
    assert len(list(shrink(pictures / "0.png", tmp_path / "thumbs" / "task", 50, quiet))) == 1


def test_the_sample_pictures_are_images(tmp_path):
    path = tmp_path / "waves.png"
    path.write_bytes(samples._waves(3))
    with Image.open(path) as image:
        image.verify()
        assert image.size == (samples.WIDTH, samples.HEIGHT)


def test_without_an_image_or_without_pillow_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no image"):
        next(shrink(tmp_path, tmp_path / "out", 50, quiet))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RuntimeError, match=r"pip install 'queuecast\[demo\]'"):
        next(shrink(tmp_path, tmp_path / "out", 50, quiet))
