"""The viewer's server: who may ask, and what it answers."""

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap

import numpy as np
import pytest
from PIL import Image
from support.command_line import start_command
from support.servers.client import send
from support.viewer import HOSTILE, serving, write_members

import imagearchive
from imagearchive.cli.viewer.classes import SiblingClasses
from imagearchive.cli.viewer.members import describe_content, describe_member
from imagearchive.cli.viewer.pictures import Pictures
from imagearchive.cli.viewer.queries import Queries, Query, folder_text


def position_of(ask, text):
    [found] = ask(f"/members?text={text}")["members"]
    return found["position"]


def first_answers(page):
    """Return the answers that came with a page."""
    found = re.search(rb'<script type="application/json" id="first">(.*?)</script>', page.body)
    return json.loads(found[1])


# --- who may ask -----------------------------------------------------------------------------


def test_server_page_with_token_sets_a_strict_cookie(server):
    answer = send(server.url)
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert server.token in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize("target", ["/", "/?token=wrong", "/folders", "/thumbnail/0", "/app.js"])
def test_server_request_without_token_is_refused(server, target):
    answer = send(f"http://{server.hosts[0]}{target}")
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


def test_server_token_in_the_url_opens_only_the_page(server):
    assert send(f"http://{server.hosts[0]}/folders?token={server.token}").status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_server_other_hosts_and_origins_are_refused(get, headers):
    answer = get("/folders", **headers)
    assert answer.status == 403
    assert "files" not in answer.body.decode()


def test_server_own_hosts_and_origin_are_answered(server, get):
    for host in server.hosts:
        assert get("/folders", Host=host, Origin=f"http://{host}").status == 200


def test_server_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_server_other_methods_are_refused(server, method):
    answer = send(server.url, method)
    assert answer.status == 501
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "target",
    ["/../server.py", "/%2e%2e/server.py", "/page/app.js", "/app.js/..", "//etc/passwd",
     "/download/../../etc/passwd", "/download/..%2f..%2fetc%2fpasswd", "/nothing"],
)  # fmt: skip
def test_server_paths_lead_nowhere_else(get, target):
    answer = get(target)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body


def test_server_every_answer_forbids_execution(get):
    for target in ("/", "/app.js", "/folders", "/thumbnail/0", "/download/0", "/nothing"):
        headers = get(target).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_server_page_contains_the_first_answers(get, ask, members):
    answer = get("/")
    first = first_answers(answer)
    assert first["members"] == ask("/members")
    assert first["folders"] == ask("/folders")
    assert first["overview"]["count"] == len(members)
    # A hostile name neither ends the element nor begins another.
    assert HOSTILE in [one["name"] for one in first["members"]["members"]]
    assert HOSTILE.encode() not in answer.body
    assert answer.body.count(b"<script") == answer.body.count(b"</script") == 2


# --- queries ---------------------------------------------------------------------------------


def test_members_pages_hold_all_members_once(ask, members):
    names = []
    while True:
        page = ask(f"/members?start={len(names)}&count=7")
        assert page["total"] == len(members)
        if not page["members"]:
            break
        assert [one["position"] for one in page["members"]] == list(
            range(len(names), len(names) + len(page["members"]))
        )
        names += [one["name"] for one in page["members"]]
    assert names[:12] == list(members)[:12]
    assert len(names) == len(members)
    assert ask("/members?start=999999999&count=5")["members"] == []


@pytest.mark.parametrize(
    "query",
    ["start=-1", "start=x", "count=501", "start=1e3", f"start={'9' * 30}", "smallest=many",
     "largest=-1", "kind=folders", f"text={'a' * 201}"],
)  # fmt: skip
def test_members_wrong_parameters_are_an_error(ask, query):
    assert ask(f"/members?{query}", 400)["error"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("text=CATS", lambda name, size: "cats" in name),
        ("text=.png&folder=dogs", lambda name, size: name.startswith("dogs/")),
        ("folder=cats/", lambda name, size: name.startswith("cats/")),
        ("folder=cat", lambda name, size: False),
        ("smallest=50k", lambda name, size: size >= 51200),
        ("smallest=8&largest=12", lambda name, size: 8 <= size <= 12),
        ("kind=images", lambda name, size: name.endswith(("png", "jpg"))),
        ("kind=other&text=a", lambda name, size: "a" in name.lower() and name[-3:] != "png"),
    ],
)
def test_members_filters_select_what_they_say(ask, members, query, wanted):
    found = ask(f"/members?count=500&{query}")
    expected = [name for name, data in members.items() if wanted(name, len(data))]
    if "kind=other" in query:
        expected = [name for name in expected if not name.endswith("jpg")]
    assert [one["name"].replace("\\r\\n", "\r\n") for one in found["members"]] == expected
    assert found["total"] == len(expected)


def test_folders_count_the_members_below_them(ask):
    folders = {one["name"]: one["count"] for one in ask("/folders")["folders"]}
    # The name of the hostile member has a slash in it.
    assert folders == {"<script>alert(1)<": 1, "cats": 14, "dogs": 2}
    assert ask("/folders?folder=cats")["folders"] == []
    assert ask("/folders?folder=missing")["folders"] == []


def test_folders_of_any_bytes_can_be_opened(tmp_path):
    names = ["caf\udce9/a.txt", "100%/b.txt", "%41/c.txt", "A/d.txt"]
    path = tmp_path / "bytes.tar"
    with tarfile.open(path, "w", encoding="utf-8") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    with imagearchive.open(path) as archive:
        queries = Queries(archive, SiblingClasses(archive))
        for position in range(len(names)):
            key = describe_member(archive, position)["folder"]
            key.encode()
            assert list(queries.positions(Query.parse({"folder": key}))) == [position]
            assert key in [folder_text(one) for one, _ in queries.folders("", 10)[0]]


def test_server_shows_an_archive_at_a_url(nginx, pictures):
    write_members(nginx.files / "viewed.tar", pictures)
    with serving(f"{nginx.url}/viewed.tar") as server:
        cookie = {"Cookie": f"{server.cookie}={server.token}"}
        answer = send(f"http://{server.hosts[0]}/thumbnail/3", headers=cookie)
    assert Image.open(io.BytesIO(answer.body)).size == (7, 9)


# --- one member ------------------------------------------------------------------------------


def test_member_says_where_its_bytes_are(ask, members, server):
    position = position_of(ask, "cats/05")
    member = ask(f"/member/{position}?text=.png&folder=cats")
    with open(member["archive"], "rb") as file:
        file.seek(member["offset"])
        assert file.read(member["size"]) == members["cats/05.png"]
    assert (member["index"], member["total"]) == (5, 12)
    assert (member["previous"], member["next"]) == (position - 1, position + 1)
    assert member["labels"] == [1.0]
    assert ask(f"/member/{position}?folder=dogs")["index"] is None


def test_member_lists_the_fields_of_its_sample(ask):
    fields = ask("/member/0")["fields"]
    assert sorted(one["extension"] for one in fields) == ["cls", "png", "txt"]


def test_member_beyond_the_end_is_not_found(ask, members):
    for kind in ("member", "content", "thumbnail", "picture", "download"):
        assert ask(f"/{kind}/{len(members)}", 404)["error"]
        assert ask(f"/{kind}/-1", 400)["error"]


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("page.html", "text", "<script>document.title = 'executed'</script>"),
        ("drawing.svg", "text", "<svg onload='alert(1)' xmlns='http://www.w3.org/2000/svg'/>"),
        ("facts.json", "json", '{\n  "a": [\n    1,\n    2\n  ]\n}'),
        ("array.npy", "array", "float32 (3, 4)"),
        ("arrays.npz", "arrays", "x: int64 (5,)\ny: float64 (2, 2)"),
        ("00.txt", "text", "a grey cat"),
    ],
)
def test_content_is_shown_as_text(ask, name, kind, text):
    content = ask(f"/content/{position_of(ask, name)}")
    assert (content["kind"], content["text"], content["truncated"]) == (kind, text, False)


def test_content_of_bytes_is_their_beginning(ask):
    content = ask(f"/content/{position_of(ask, 'data.bin')}")
    assert content["kind"] == "bytes"
    assert content["truncated"]
    assert content["text"].startswith("00000000  00 01 02")
    assert len(content["text"]) < 2000


def test_content_of_a_damaged_member_is_an_error(tmp_path):
    path = write_members(tmp_path / "damaged.tar", {"a.npy": b"no array", "b.npz": b"PK\3\4"})
    with imagearchive.open(path) as archive:
        for position in (0, 1):
            content = describe_content(archive, position)
            assert (content["kind"], bool(content["error"])) == ("error", True)


def test_content_of_a_large_array_reads_only_its_header(tmp_path):
    path = tmp_path / "large.npz"
    np.savez_compressed(path, zeros=np.zeros((3 << 20, 4), np.uint8))
    with imagearchive.open(path) as archive:
        read = []
        archive.read = read.append
        assert describe_content(archive, 0)["text"] == "uint8 (3145728, 4)"
        assert read == []


def test_picture_is_the_image(get, ask, members):
    answer = get("/picture/2")
    assert answer.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.body)))
    np.testing.assert_array_equal(shown, Image.open(io.BytesIO(members["cats/02.png"])))
    thumbnail = Image.open(io.BytesIO(get("/thumbnail/2").body))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (24, 16))


def test_picture_that_is_broken_is_an_error_with_its_reason(ask):
    position = position_of(ask, "broken")
    for kind in ("thumbnail", "picture"):
        assert "PNG" in ask(f"/{kind}/{position}", 422)["error"]
    assert "image" in ask(f"/picture/{position_of(ask, 'page.html')}", 422)["error"]


def test_pictures_keep_thumbnails_up_to_a_number_of_bytes(image_tar):
    with imagearchive.open(image_tar) as archive:
        one = len(Pictures(archive).thumbnail(0))
        pictures = Pictures(archive, limit=4 * one)
        made = [pictures.thumbnail(position) for position in range(12)]
        assert 0 < pictures.kept_bytes <= 4 * one
        assert [pictures.thumbnail(position) for position in range(12)] == made


def test_download_is_the_member(get, ask, members):
    answer = get(f"/download/{position_of(ask, 'page.html')}")
    assert answer.body == members["page.html"]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"


def test_download_hostile_name_adds_no_header(get, ask):
    answer = get(f"/download/{position_of(ask, 'Set-Cookie')}")
    assert answer.body == b"header"
    assert "set-cookie" not in answer.headers
    assert "%0D%0A" in answer.headers["content-disposition"]


def test_server_connection_answers_several_requests(server):
    connection = http.client.HTTPConnection(server.hosts[0])
    for target in ("/folders", "/nothing", "/members?count=1"):
        connection.request("GET", target, headers={"Cookie": f"{server.cookie}={server.token}"})
        json.loads(connection.getresponse().read())
    connection.close()


def test_fields_of_one_name_in_two_archives_stay_apart(tmp_path, members):
    parts = {name: data for name, data in members.items() if name.startswith("cats/00")}
    paths = [write_members(tmp_path / f"{number}.tar", parts) for number in (0, 1)]
    with imagearchive.open(paths) as archive:
        for position in range(6):
            fields = [one["position"] for one in describe_member(archive, position)["fields"]]
            assert sorted(fields) == ([0, 1, 2] if position < 3 else [3, 4, 5])


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_view_serves_until_it_is_interrupted(image_tar, signum):
    with start_command("view", "--no-browser", image_tar) as process:
        url = process.stdout.readline().decode().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", url)
        assert send(url).status == 200
        # A connection that stays open must not delay the end.
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
            assert connection.recv(1)
            process.send_signal(signum)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_view_interrupted_while_it_accepts_a_connection_leaves_none_open(image_tar):
    script = textwrap.dedent("""
        import os, signal, socketserver, sys
        from imagearchive.cli import main
        accept = socketserver.TCPServer.get_request
        def accept_and_interrupt(server):
            connection = accept(server)
            os.kill(os.getpid(), signal.SIGINT)
            return connection
        socketserver.TCPServer.get_request = accept_and_interrupt
        sys.exit(main(["view", "--no-browser", sys.argv[1]]))
    """)
    with subprocess.Popen(
        [sys.executable, "-W", "default", "-c", script, image_tar],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        port = int(re.search(rb":(\d+)/", process.stdout.readline())[1])
        with socket.create_connection(("127.0.0.1", port)):
            _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")


def test_view_port_that_is_taken_is_an_error(image_tar):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_command("view", "--no-browser", "--port", str(port), image_tar) as process:
            _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"port {port}".encode() in err


def test_view_reads_several_archives_as_one(tmp_path, pictures, image_tar):
    with start_command("view", "--no-browser", image_tar, image_tar.parent) as process:
        url = process.stdout.readline().decode().strip()
        overview = first_answers(send(url))["overview"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert len(overview["archives"]) == 2
    assert overview["count"] > 12
