"""Classes in the viewer that folders do not tell: from labels beside images, and from tables."""

import json
import time
import urllib.parse

import pytest
from support.browser import chromium
from support.command_line import start_command
from support.servers.client import send
from support.viewer import ask_server, gradient, serving, serving_archive, write_members

from imagearchive import Image, Label, SampleArchive
from imagearchive.cli.viewer import classes as module
from imagearchive.cli.viewer.samples import FieldSamples

HOSTILE = "<img src=x onerror=alert(1)>"
# By the number of the image; the last two have no usable label.
LABELS = ["10", "9", "9\n", "dog", HOSTILE, "9" * 300, None]


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    members = {}
    for number, label in enumerate(LABELS):
        members[f"{number}.png"] = gradient(number)
        members[f"{number}.txt"] = b"text"
        if label is not None:
            members[f"{number}.cls"] = label.encode()
    path = tmp_path_factory.mktemp("labeled") / "labeled.tar"
    with serving(write_members(path, members)) as server:
        yield server


def wait_for_classes(server, target="/classes"):
    deadline = time.monotonic() + 20
    while "classes" not in (answer := ask_server(server, target)):
        assert time.monotonic() < deadline
    return answer


def names_in(server, name):
    found = ask_server(server, f"/members?{urllib.parse.urlencode({'class': name})}")
    return [one["name"] for one in found["members"]]


def test_classes_beside_images_are_listed_by_number_then_name(labeled):
    answer = wait_for_classes(labeled)
    counts = [(one["name"], one["count"]) for one in answer["classes"]]
    assert counts == [("9", 2), ("10", 1), (HOSTILE, 1), ("dog", 1)]
    assert answer["count"] == 4


def test_members_of_a_class_are_its_images(labeled):
    assert names_in(labeled, "9") == ["1.png", "2.png"]
    assert names_in(labeled, HOSTILE) == ["4.png"]
    assert names_in(labeled, "cat") == []
    both = ask_server(labeled, "/members?class=9&text=2")
    assert [one["name"] for one in both["members"]] == ["2.png"]


def test_member_names_its_class(labeled):
    wait_for_classes(labeled)
    classes = {
        one["name"]: ask_server(labeled, f"/member/{one['position']}")["class"]
        for one in ask_server(labeled, "/members?kind=images")["members"]
    }
    assert [classes[f"{number}.png"] for number in range(7)] == [
        "10", "9", "9", "dog", HOSTILE, None, None,
    ]  # fmt: skip


def test_classes_of_an_archive_without_labels_are_none(tmp_path):
    with serving(write_members(tmp_path / "a.tar", {"cat/1.png": gradient(1)})) as server:
        assert ask_server(server, "/classes")["total"] == 0
        assert names_in(server, "cat") == []


def test_classes_of_many_labels_are_read_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEW_LABELS", 2)
    members = {}
    for number in range(600):
        members |= {f"{number}.png": b"", f"{number}.cls": b"%d" % (number % 3)}
    path = write_members(tmp_path / "a.tar", members)
    with serving(path) as server:
        assert ask_server(server, "/classes") == {"total": 600, "read": None}
        answer = wait_for_classes(server, "/classes?read=1")
        assert [one["count"] for one in answer["classes"]] == [200, 200, 200]
    # A link to a class reads them, too.
    with serving(path) as server:
        assert ask_server(server, "/members?class=1")["total"] == 200


def test_classes_of_an_archive_at_a_url_are_read_when_asked_for(nginx):
    members = {"1.png": gradient(1), "1.cls": b"cat", "2.png": gradient(2), "2.cls": b"dog"}
    write_members(nginx.files / "labeled.tar", members)
    with serving(f"{nginx.url}/labeled.tar") as server:
        assert ask_server(server, "/classes") == {"total": 2, "read": None}
        answer = wait_for_classes(server, "/classes?read=1")
        assert [(one["name"], one["count"]) for one in answer["classes"]] == [
            ("cat", 1),
            ("dog", 1),
        ]


def test_classes_of_label_fields_are_those_of_all_members(tmp_path):
    members = {"img/1.png": gradient(1), "img/2.png": gradient(2)}
    members |= {"lab/1.txt": b"4", "lab/2.txt": b"5"}
    path = write_members(tmp_path / "a.tar", members)
    fields = {"image": Image("img/{key}.png"), "label": Label("lab/{key}.txt")}
    with (
        SampleArchive(path, fields) as dataset,
        serving_archive(dataset.archives[0], FieldSamples(dataset)) as server,
    ):
        assert names_in(server, "5") == ["img/2.png", "lab/2.txt"]


@pytest.mark.parametrize("inside", [True, False])
def test_view_table_tells_the_classes(tmp_path, inside):
    table = b"file,kind\na/1.png,cat\n2,dog\nmissing.png,bird\n3,cat\n"
    members = {f"a/{number}.png": gradient(number) for number in range(1, 5)}
    path = tmp_path / "data.tar"
    write_members(path, members | {"labels.csv": table} if inside else members)
    given = path / "labels.csv" if inside else tmp_path / "labels.csv"
    if not inside:
        given.write_bytes(table)
    options = ("--table", given, "--image", "file", "--label", "kind")
    with start_command("view", "--no-browser", *options, path) as process:
        url = process.stdout.readline().decode().strip()
        cookie = send(url).headers["set-cookie"].partition(";")[0]
        classes, cats = (
            json.loads(send(url.partition("?")[0] + target, headers={"Cookie": cookie}).body)
            for target in ("classes", "members?class=cat")
        )
        process.terminate()
        process.communicate(timeout=30)
    assert [(one["name"], one["count"]) for one in classes["classes"]] == [("cat", 2), ("dog", 1)]
    assert [one["name"] for one in cats["members"]] == ["a/1.png", "a/3.png"]


@pytest.mark.parametrize("option", ["--table", "--image", "--label"])
def test_view_table_options_need_each_other(run, work, option):
    status, _, err = run("view", "photos", option, "x")
    assert status == 2
    assert "--table, --image, and --label" in err


def test_page_lists_classes_and_filters_by_them(labeled, tmp_path):
    links = "[...document.querySelectorAll('#class-list a')]"
    with chromium(tmp_path) as browser:
        browser.resize(1280, 800)
        browser.open(labeled.url)
        browser.wait(f"{links}.length === 5")
        assert HOSTILE in browser.text("#class-list")
        assert browser.run("return document.querySelectorAll('#class-list img').length") == 0
        browser.run(f"{links}.find(one => one.dataset.class === '9').click()")
        browser.wait("document.querySelectorAll('.cell .name').length === 2")
        assert browser.text("#status") == f"2 of {3 * len(LABELS) - 1} files"
        assert browser.text("#class-list [aria-current]").startswith("9")
        # The search keeps the class, and the address leads back.
        browser.type("#text", "2.")
        browser.wait("document.querySelectorAll('.cell .name').length === 1")
        browser.run("location.reload()")
        browser.wait("document.querySelector('#class-list [aria-current]')?.text.startsWith('9')")
        browser.wait("document.querySelectorAll('.cell .name').length === 1")
        browser.run(f"{links}[0].click()")
        browser.wait("document.querySelectorAll('.cell .name').length === 3")
        browser.run("document.querySelector('.cell').click()")
        browser.wait("document.getElementById('facts').textContent.includes('Class9')")
        assert browser.console() == []
