"""The viewer of samples whose fields are in directories of their own: `view --field`."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from support.archives import encoded, write_tar
from support.browser import chromium
from support.command_line import start_command
from support.servers.client import send


@pytest.fixture
def ask(pairs):
    """Send a request; return the status, and the JSON or the image that answers it."""

    def ask(target):
        headers = {"Cookie": f"{pairs.cookie}={pairs.token}"}
        answer = send(f"http://{pairs.hosts[0]}{target}", headers=headers)
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(answer.body) if is_json else answer.body

    return ask


def position(pairs, name):
    return list(pairs.archive).index(name)


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("seg/0.png", ["img/0.png", "seg/0.png", "box/0.txt"]),
        ("img/2.png", ["img/2.png", "box/2.txt"]),
        ("notes.txt", ["notes.txt"]),
    ],
)
def test_member_of_fields_lists_all_of_its_sample(ask, pairs, member, expected):
    status, found = ask(f"/member/{position(pairs, member)}")
    assert status == 200
    assert [one["name"] for one in found["fields"]] == expected
    if len(expected) > 1:
        assert found["sample"] == int(member[4])
        assert found["fields"][0]["extension"] == "image"
    else:
        assert found["sample"] is None


def test_drawn_sample_shows_its_fields_in_its_image(ask, pairs):
    status, data = ask("/drawn/0")
    assert status == 200
    drawn = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    # The mask covers the upper half of an image of one color.
    middle = drawn.shape[1] // 2
    assert np.abs(drawn[40, middle] - drawn[-40, middle]).max() > 20


@pytest.mark.parametrize(
    ("sample", "status", "reason"), [(1, 422, "box/1.txt"), (3, 404, "no such")]
)
def test_drawn_sample_that_cannot_be_drawn_is_an_error(ask, sample, status, reason):
    found, answer = ask(f"/drawn/{sample}")
    assert found == status
    assert reason in answer["error"]


def test_drawn_sample_without_fields_is_not_found(get):
    assert get("/drawn/0").status == 404


def test_page_shows_the_drawn_sample_and_its_fields(pairs, tmp_path):
    with chromium(tmp_path) as browser:
        browser.open(pairs.url)
        browser.wait("document.querySelectorAll('.cell .name').length > 5")
        browser.run(
            "[...document.querySelectorAll('.cell')].find(c => c.title === 'seg/0.png').click()"
        )
        browser.wait("document.querySelector('#drawn img')?.naturalWidth > 100")
        assert "boxes" in browser.text("#fields")
        browser.run(
            "[...document.querySelectorAll('.cell')].find(c => c.title === 'img/1.png').click()"
        )
        browser.wait("document.querySelector('#drawn .broken')?.textContent.includes('box/1.txt')")


@pytest.mark.parametrize("end", ["png", "npz"])
def test_view_field_describes_samples(tmp_path, end):
    image = encoded(np.zeros((8, 8, 3), np.uint8))
    if end == "npz":
        np.savez(tmp_path / "image.npz", image=np.zeros((8, 8, 3), np.uint8))
        image = (tmp_path / "image.npz").read_bytes()
    members = {f"{name}.{end}": image for name in ("a/1", "b/1", "b/2")}
    path = write_tar(tmp_path / "data.tar", members)
    kind = "" if end == "npz" else "image:"
    options = ("--field", f"image={kind}a/{{key}}.{end}", "--field", f"other={kind}b/{{key}}.{end}")
    with start_command("view", "--no-browser", *options, path) as process:
        url = process.stdout.readline().decode().strip()
        cookie = send(url).headers["set-cookie"].partition(";")[0]
        member = send(url.partition("?")[0] + "member/1", headers={"Cookie": cookie})
        process.terminate()
        process.communicate(timeout=30)
    fields = json.loads(member.body)["fields"]
    assert [one["extension"] for one in fields] == ["image", "other"]


@pytest.mark.parametrize("option", ["--cache-bytes", "--decompress-to"])
def test_view_field_options_that_do_nothing_are_refused(run, work, option):
    status, _, err = run("view", "photos", "--field", "text={key}.txt", option, "1M")
    assert status == 2
    assert option in err
